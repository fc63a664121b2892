"""Whatever happens on a small disk that fills up and empties: what is recorded of the acts, and what is set aside."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptd.daemon.audit_log import RESERVE_BYTES, AuditLog
from ckptd.engine.journal import JournalEntry, Reserve
from ckptd.errors import StorageFullError
from tests.e2e.test_full_disk import mounted

END_MORE_BYTES = 1024
MOST_RECORD_BYTES = 48 << 10  # of those below, with their ends, and what rotations may lose

ROOMS = {"pin": Reserve.NONE, "unpin": Reserve.HALF, "remove": Reserve.ALL}
TEXTS = st.sampled_from(["", "r" * 300, "\x1b" * 700, "\N{GRINNING FACE}" * 5000])
STEPS = st.one_of(
    st.tuples(st.just("begin"), st.sampled_from(sorted(ROOMS)), TEXTS, st.sampled_from([1, 1, 1, 40])),
    st.tuples(st.just("end"), st.integers(0, 1 << 20), TEXTS, st.sampled_from([1, 40])),
    st.tuples(st.just("refusals"), st.just("refusal"), TEXTS, st.sampled_from([1, 60])),
    st.tuples(st.just("fill"), st.none(), st.none(), st.none()),
    st.tuples(st.just("free"), st.sampled_from([4 << 10, 100 << 10, 1 << 20]), st.none(), st.none()),
    st.tuples(st.just("restart"), st.none(), st.none(), st.none()),
    st.tuples(st.just("rotate"), st.none(), st.none(), st.none()),
)


@pytest.fixture(scope="module", params=["tmpfs", pytest.param("ext4", marks=pytest.mark.campaign)])
def disk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with mounted(request.param, tmp_path_factory.mktemp("audit") / "disk") as place:
        yield place


class Machine:
    """An audit log that must record what it is told, on a disk that a filler shares with it."""

    def __init__(self, disk: Path) -> None:
        for left in disk.iterdir():
            if left.is_file():
                left.unlink()
        self.disk, self.path, self.filler = disk, disk / "audit.jsonl", disk / "filler"
        self.filler.touch()
        self.open: list[tuple[JournalEntry, int]] = []  # begun, not ended, with the bytes of the record
        self.next_step = self.rotations = 0
        self.log = AuditLog(str(self.path), required=True)

    @property
    def set_aside(self) -> int:
        """What the file has of the disk beyond its end."""
        state = self.path.stat()
        return state.st_blocks * 512 - state.st_size

    @property
    def kept(self) -> int:
        """What has to be there for the ends of acts."""
        return sum(size + END_MORE_BYTES for _, size in self.open)

    def last(self) -> tuple[tuple[object, object, object], int]:
        with self.path.open("rb") as file:
            file.seek(max(0, self.path.stat().st_size - (64 << 10)))
            line = file.read().splitlines()[-1]
        told = json.loads(line)
        return (told["event"], told["step"], told["outcome"]), len(line) + 1

    def begin(self, event: str, text: str, times: int) -> None:
        for _ in range(times):
            self.next_step += 1
            entry = JournalEntry(event, run="r", step=self.next_step, reserve=ROOMS[event], details={"reason": text})
            has_room = self.set_aside >= self.kept + MOST_RECORD_BYTES
            try:
                self.log.begins(entry)
            except StorageFullError:
                assert event != "remove" or not has_room, "a removal is recorded while room is set aside"
            else:
                last, size = self.last()
                assert last == (event, entry.step, "begun")
                self.open.append((entry, size))
                left = {"pin": RESERVE_BYTES, "unpin": RESERVE_BYTES // 2, "remove": 0}[event]
                assert self.set_aside >= self.kept + left

    def end(self, which: int, text: str, times: int) -> None:
        for _ in range(min(times, len(self.open))):
            before = self.set_aside - self.kept
            entry, _ = self.open.pop(which % len(self.open))
            self.log.ended(entry.ended("failed", {"error": "ConflictError", "problem": text}))
            assert self.last()[0] == (entry.event, entry.step, "failed"), "an end is always recorded"
            left = self.set_aside - self.kept
            assert entry.reserve is not Reserve.NONE or left >= min(before, RESERVE_BYTES), (
                "it takes nothing of the reserve"
            )

    def refusals(self, event: str, text: str, times: int) -> None:
        for _ in range(times):
            before = self.set_aside - self.kept
            self.log.ended(JournalEntry(event, "refused", details={"reason": text}))
            assert self.set_aside - self.kept >= min(before, RESERVE_BYTES), "what nobody needs leaves the reserve"

    def fill(self, *_: object) -> None:
        part = 32 << 20
        while part >= 4096:
            try:
                with self.filler.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), self.filler.stat().st_size, part)
            except OSError:
                part //= 2

    def free(self, size: int, *_: object) -> None:
        os.truncate(self.filler, max(0, self.filler.stat().st_size - size))
        free = os.statvfs(self.disk)
        if free.f_bavail * free.f_frsize > 2 * RESERVE_BYTES:
            self.refusals("refusal", "", 1)
            assert self.set_aside >= self.kept + RESERVE_BYTES, "it refills"
            self.begin("pin", "", 1)
            assert self.last()[0][2] == "begun"

    def restart(self, *_: object) -> None:
        self.log.close()
        self.open = []
        self.log = AuditLog(str(self.path), required=True)

    def rotate(self, *_: object) -> None:
        self.rotations += 1
        self.path.rename(self.path.with_name(f"audit.jsonl.{self.rotations}"))
        self.log.reopen()
        if self.path.stat().st_size:
            assert self.last()[0][0] == "rotation"

    def check_numbers(self) -> None:
        paths = [self.disk / f"audit.jsonl.{each + 1}" for each in range(self.rotations)] + [self.path]
        records = [json.loads(line) for path in paths for line in path.read_bytes().splitlines()]
        assert [each["number"] for each in records] == list(range(1, len(records) + 1))


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=st.lists(STEPS, min_size=10, max_size=40))
def test_an_end_is_always_recorded_and_a_removal_while_room_is_set_aside(disk: Path, steps: list[tuple]) -> None:  # type: ignore[type-arg]
    machine = Machine(disk)
    try:
        for name, *arguments in steps:
            getattr(machine, name)(*arguments)
        machine.fill()
        machine.end(0, "", len(machine.open))
        machine.check_numbers()
    finally:
        machine.log.close()
