from __future__ import annotations

import itertools

import pytest

from ckptd.errors import ConflictError
from ckptd.storage.limited import LimitedWriter, RateLimit, limited
from ckptd.storage.memory import MemoryStore

MIB = 1 << 20


class Time:
    """A clock that goes on only while somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def now(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds


@pytest.mark.parametrize("rate", [1_000_000, 50 * MIB, 10_000 * MIB])
def test_an_object_takes_as_long_as_the_rate_says(rate: int) -> None:
    time = Time()
    limit = RateLimit(rate, now=time.now, sleep=time.sleep)
    store = MemoryStore("limited")
    data = bytes(range(256)) * (20 * MIB // 256)
    writer = limited(store.create("k", len(data)), limit)
    writer.write(0, data[:12345])
    writer.write(12345, data[12345:])
    assert (writer.key, writer.size_bytes) == ("k", len(data))
    writer.finish()
    assert store.get("k") == data
    took_s = time.now_s - 100.0
    last_step_s = limit.step_bytes / rate  # the piece that is under way needs not be waited for
    assert len(data) / rate - last_step_s - 1e-6 <= took_s <= len(data) / rate


def test_unused_time_is_made_up_for_only_briefly() -> None:
    time = Time()
    limit = RateLimit(MIB, now=time.now, sleep=time.sleep)
    time.now_s += 3600
    for _ in range(64):
        limit.take(64 << 10)
    assert time.now_s - 3700.0 == pytest.approx(4 - 1 / 16 - 0.1, abs=1e-3)


def test_turns_are_given_in_the_order_of_coming_whoever_comes() -> None:
    """So of those who write at once nobody waits for more than one piece of each of the others."""
    waits: list[float] = []
    limit = RateLimit(MIB, now=lambda: 0.0, sleep=waits.append)
    for _ in range(10):
        limit.take(64 << 10)
    assert waits == pytest.approx([n / 16 for n in range(1, 10)])


def test_pieces_end_at_the_pages_of_the_file() -> None:
    class Recording:
        key, size_bytes = "k", 10 * MIB

        def __init__(self) -> None:
            self.written: list[tuple[int, int]] = []

        def write(self, offset: int, data: memoryview) -> None:
            self.written.append((offset, len(data)))

        def finish(self) -> None: ...

        def abort(self) -> None: ...

    time = Time()
    recording = Recording()
    limit = RateLimit(20 * MIB, now=time.now, sleep=time.sleep)
    LimitedWriter(recording, limit).write(1000, bytes(9 * MIB))  # type: ignore[arg-type]
    assert recording.written[0][0] == 1000
    assert sum(size for _, size in recording.written) == 9 * MIB
    for (offset, size), (following, _) in itertools.pairwise(recording.written):
        assert offset + size == following
        assert following % 4096 == 0
    assert max(size for _, size in recording.written) <= limit.step_bytes <= MIB


def test_without_a_limit_nothing_is_wrapped_and_aborting_passes_through() -> None:
    store = MemoryStore("limited")
    writer = store.create("k", 1)
    assert limited(writer, None) is writer
    limited(writer, RateLimit(MIB)).abort()
    with pytest.raises(ConflictError):
        writer.write(0, b"x")
