"""Reading what a daemon keeps: straight from disk where that is the same disk, else through the daemon."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ckptd import Checkpointer
from ckptd.client.daemon.remote_objects import RemoteObjects, objects_for
from ckptd.client.daemon.stream_queue import OVERLAP_BYTES
from ckptd.engine.reading.bundle import Bundle
from ckptd.errors import CkptdError, CorruptionError, InvalidRequestError, NotFoundError, UnavailableError
from ckptd.format import crc32c
from ckptd.storage.base import SummingObjects
from ckptd.storage.capabilities import CheckingObjects, ForeseeingObjects, SlicePart
from ckptd.storage.local.local_store import LocalStore
from ckptd.wire import versions
from ckptd.wire.chunks import CHUNK_BYTES
from tests import seams
from tests.fakes.waiting import eventually
from tests.unit.client.relay import Relay

BOUND_S = 60.0
KEY = "runs/a/model.ckpt-1.data-00000-of-00001"
ARRAY = np.random.default_rng(0).integers(0, 255, 20 * CHUNK_BYTES, dtype=np.uint8)


@pytest.fixture
def saved(daemon):
    with Checkpointer(daemon.address, "runs/a", timeout_s=BOUND_S) as ckpt:
        ckpt.save(1, {"a": ARRAY}).result(BOUND_S)
        assert isinstance(ckpt.transport.catalog.objects(""), LocalStore)
    return daemon


@pytest.fixture
def unseen(monkeypatch):
    """This process does not see the daemon's directory."""

    def refuse(url, **_):
        raise NotFoundError(url)

    seams.OPEN_STORE_OF_DAEMON.put(monkeypatch, refuse)


@pytest.fixture
def remote(saved, unseen):
    ckpt = Checkpointer(saved.address, "runs/a", timeout_s=BOUND_S)
    yield ckpt.transport.catalog.objects("")
    ckpt.close()


def test_the_directory_is_read_only_if_it_is_really_the_daemons(tmp_path):
    (tmp_path / ".ckptd").mkdir()
    (tmp_path / ".ckptd/id").write_text("this one")

    def chosen(root, root_id):
        return objects_for(None, "grpc://there:1", None, root, root_id, 1.0)

    assert isinstance(chosen(str(tmp_path), "this one"), LocalStore)
    for root, root_id in ((str(tmp_path), "another"), (str(tmp_path), ""), ("", "this one"), ("/absent", "this one")):
        assert isinstance(chosen(root, root_id), RemoteObjects)
    assert chosen("s3://bucket", "x").location("runs/a") == "s3://bucket/runs/a"


def test_objects_are_described_and_read_in_any_part(remote):
    assert isinstance(remote, RemoteObjects)
    assert remote.stat(KEY).size_bytes == len(ARRAY)
    part = bytearray(3 << 20)
    remote.read_into(KEY, 12345, memoryview(part))
    assert part == ARRAY[12345 : 12345 + len(part)].tobytes()
    assert remote.get(KEY) == ARRAY.tobytes()
    assert remote.location(KEY).endswith("/root/" + KEY)


def test_what_is_read_is_summed_on_the_way_part_by_part(remote):
    sizes = [5, 0, CHUNK_BYTES - 7, 3 * CHUNK_BYTES, 1]
    parts = [np.zeros(size, np.uint8) for size in sizes]
    assert isinstance(remote, SummingObjects)
    sums = remote.read_summed(KEY, 77, *map(memoryview, parts))
    at = 77
    for part, crc in zip(parts, sums, strict=True):
        assert (part == ARRAY[at : at + len(part)]).all()
        assert crc == crc32c.crc32c(part.data)
        at += len(part)


def test_what_lies_side_by_side_is_asked_for_at_once(remote, monkeypatch):
    asked = []
    real = RemoteObjects.blocks

    def noting(self, key, offset, size, deadline, about=None):
        asked.append((key, offset, size))
        return real(self, key, offset, size, deadline)

    seams.READ_BLOCKS.put(monkeypatch, noting)
    assert (Bundle.open(remote, KEY.partition(".data")[0]).read("a") == ARRAY).all()
    assert [(offset, size) for key, offset, size in asked if key == KEY] == [(0, len(ARRAY))]


@pytest.mark.parametrize(("size", "at_once"), [(12 << 20, 1), (1 << 20, 3)])
def test_long_requests_take_turns_and_short_ones_do_not(remote, monkeypatch, size, at_once):
    real, guard, meeting = RemoteObjects.blocks, threading.Lock(), threading.Barrier(3)
    under_way, most = [], []

    def noting(self, key, offset, size, deadline, about=None):
        with guard:
            under_way.append(offset)
            most.append(len(under_way))
        if at_once > 1:
            meeting.wait(BOUND_S)  # breaks unless all are here together
        left = size
        for block in real(self, key, offset, size, deadline, about=None):
            yield block
            left -= len(block)
            # With so little to go the next may begin, which it does once this block is in its place.
            with guard:
                if offset in under_way and left <= OVERLAP_BYTES + CHUNK_BYTES:
                    under_way.remove(offset)

    seams.READ_BLOCKS.put(monkeypatch, noting)
    parts = [np.zeros(size, np.uint8) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda n: remote.read_into(KEY, n * size, memoryview(parts[n])), range(3)))
    assert (np.concatenate(parts) == ARRAY[: 3 * size]).all()
    assert max(most) == at_once


def test_what_is_not_there_or_too_short_or_too_large_is_said(remote):
    with pytest.raises(NotFoundError):
        remote.stat("runs/a/absent")
    with pytest.raises(NotFoundError):
        remote.get("runs/a/absent")
    with pytest.raises(CorruptionError):
        remote.read_into(KEY, len(ARRAY) - 10, memoryview(bytearray(11)))
    with pytest.raises(CorruptionError, match="too large"):
        remote.get(KEY, limit_bytes=100)
    with pytest.raises(CkptdError):
        remote.get("../secret")


def test_a_broken_connection_is_resumed(saved, unseen, monkeypatch):
    relay = Relay(int(saved.address.rpartition(":")[2]))
    real, cuts = RemoteObjects.blocks, []

    def cutting(self, key, offset, size, deadline, about=None):
        for block in real(self, key, offset, size, deadline, about=None):
            yield block
            if len(cuts) < 3:
                cuts.append(offset)
                relay.cut()

    seams.READ_BLOCKS.put(monkeypatch, cutting)
    with Checkpointer(relay.address, "runs/a", timeout_s=BOUND_S) as ckpt:
        assert (ckpt.restore()["a"] == ARRAY).all()
    assert len(cuts) >= 3
    relay.close()


def test_a_daemon_that_stays_away_ends_the_reading(saved, unseen):
    with Checkpointer(saved.address, "runs/a", timeout_s=2.0) as ckpt:
        objects = ckpt.transport.catalog.objects("")
        saved.stop()
        with pytest.raises(UnavailableError, match="no daemon answers"):
            objects.stat(KEY)


def test_a_long_request_says_what_is_read_next_and_no_more_than_an_agent_may_read_ahead():
    requests = []

    class Stub:
        def Read(self, request, timeout):  # noqa: N802
            requests.append(request)
            raise InvalidRequestError("enough")

    def then(key, offset, size):
        with pytest.raises(InvalidRequestError):
            objects.read_into(key, offset, memoryview(bytearray(size)))
        return [(each.key, each.offset, each.size) for each in requests.pop().then]

    objects = objects_for(Stub(), "there:1", versions.this_peer("r"), "s3://b", "", 1.0)
    assert isinstance(objects, ForeseeingObjects)
    assert then("a", 0, 2 << 20) == []
    objects.foresee([("a", 0, 6 << 20), ("a", 9 << 20, 1 << 20), ("b", 5, 1 << 30)])
    assert then("a", 0, 2 << 20) == [("a", 2 << 20, 4 << 20), ("a", 9 << 20, 1 << 20), ("b", 5, 251 << 20)]
    assert then("a", 4 << 20, 2 << 20) == [("a", 9 << 20, 1 << 20), ("b", 5, 255 << 20)]
    assert then("b", (1 << 30) - (2 << 20) + 5, 2 << 20) == []
    assert then("a", 0, 1 << 10) == []  # a short one is not worth it
    assert then("c", 0, 2 << 20) == []


def test_a_restore_that_waits_says_for_what_and_how_much_is_left(monkeypatch, caplog):
    seams.READ_NOTICE_S.put(monkeypatch, 0.05)
    seams.READ_LOOK_EVERY_S.put(monkeypatch, 0.01)
    go_on = threading.Event()

    class Call:
        def __iter__(self):
            yield memoryview(bytes(1_000_000))
            assert go_on.wait(BOUND_S)
            yield memoryview(bytes(2_000_000))

        def cancel(self):
            pass

    class Stub:
        def Read(self, request, timeout):  # noqa: N802
            return Call()

    objects = objects_for(Stub(), "there:1", versions.this_peer("r"), "s3://b", "", BOUND_S)
    with ThreadPoolExecutor(1) as reader:
        reading = reader.submit(objects.read_into, KEY, 0, memoryview(bytearray(3_000_000)))
        try:
            eventually(lambda: "2.0 MB are requested" in caplog.text, "it says what is left", within_s=BOUND_S)
        finally:
            go_on.set()
        reading.result(BOUND_S)
    assert f"reading {KEY} waits for the daemon at there:1, for " in caplog.text


def test_parts_of_slices_are_read_with_what_their_checksums_cover(monkeypatch):
    requests = []

    class Stub:
        def Read(self, request, timeout):  # noqa: N802
            requests.append(request)
            raise InvalidRequestError("enough")

    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    objects = objects_for(Stub(), "there:1", versions.this_peer("r"), "s3://b", "", 1.0)
    assert isinstance(objects, CheckingObjects)
    with pytest.raises(InvalidRequestError):
        objects.read_parts(KEY, 5, [SlicePart(3, 100, 0xFFFFFFFF, 7)], memoryview(bytearray(7)))
    (request,) = requests
    (part,) = request.slices
    assert (part.offset, part.size, part.crc32c, part.wanted_bytes) == (3, 100, 0xFFFFFFFF, 7)
    assert (request.offset, request.size, request.num_ranks) == (5, 7, 8)
