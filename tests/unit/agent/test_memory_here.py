"""What an agent tells of its host's memory, and what it knows of that of others."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import pytest

from ckptd.agent.memory_here import TELL_AGAIN_S, MemoryHere
from ckptd.engine.hosts.memories import InMemory, Where
from ckptd.errors import UnavailableError

KEY = "r/model.ckpt-3.data-00001-of-00004"


class Lent:
    """Memory with three saves of one run."""

    def __init__(self) -> None:
        self.changes = 1
        self.saves: list[tuple[str, str, Mapping[str, int]]] = [
            ("r", f"s{step}", {f"r/model.ckpt-{step}.data-00001-of-00004": 10 * step}) for step in (1, 2, 3)
        ]

    def held_shards(self) -> Sequence[tuple[str, str, Mapping[str, int]]]:
        return self.saves

    def read_held(self, run: str, save_id: str, shard_key: str, offset: int, into: memoryview) -> list[tuple[int, int]]:
        return []

    def drop(self, run: str, save_ids: Collection[str]) -> None:
        self.saves = [each for each in self.saves if each[1] not in save_ids]
        self.changes += 1


class Host:
    """An agent's memory, and the coordinator that it tells of it."""

    def __init__(self) -> None:
        self.now, self.told, self.gone, self.asked = 0.0, [], [], []
        self.where = Where("", {})
        self.is_there = True
        self.memory = MemoryHere("a", self._where, self._tell, now=lambda: self.now)
        self.memory.lent = self.lent = Lent()

    def _tell(self, saves: Sequence[InMemory]) -> Sequence[str]:
        if not self.is_there:
            raise UnavailableError("nobody there")
        self.told.append(list(saves))
        return self.gone

    def _where(self, prefix: str) -> Where:
        self.asked.append(prefix)
        if not self.is_there:
            raise UnavailableError("nobody there")
        return self.where

    def tick(self, after_s: float = 0.0, term: int | None = 1) -> None:
        self.now += after_s
        self.memory.tick(term, lambda work, *arguments: work(*arguments))


@pytest.fixture
def host() -> Host:
    return Host()


def test_the_newest_two_saves_are_told_when_they_change_to_a_new_coordinator_and_again_after_a_while(host):
    host.tick(term=None)
    assert not host.told
    host.tick()
    assert host.told == [[InMemory("r", "s2", {1: 20}), InMemory("r", "s3", {1: 30})]]
    host.tick(1.0)
    host.tick(TELL_AGAIN_S - 2.0)
    assert len(host.told) == 1
    host.tick(2.0)
    assert len(host.told) == 2
    host.tick(term=2)
    assert len(host.told) == 3
    host.lent.drop("r", ["s1", "s2", "s3"])
    host.tick(term=2)
    assert host.told[3:] == [[]]
    host.tick(2 * TELL_AGAIN_S, term=2)
    assert len(host.told) == 4  # there is nothing to repeat


def test_a_coordinator_that_does_not_answer_is_told_again(host):
    host.is_there = False
    host.tick()
    host.is_there = True
    host.tick(0.5)
    assert not host.told
    host.tick(1.0)
    assert len(host.told) == 1


def test_what_is_no_checkpoint_any_more_is_offered_no_longer(host):
    host.gone = ["s3"]
    host.tick()
    assert [save for _, save, _ in host.lent.saves] == ["s1", "s2"]


def test_who_has_most_of_a_shard_is_asked_first_and_where_it_is_is_asked_once_in_a_while(host):
    host.where = Where("s3", {"a": {0: 5}, "b": {1: 10}, "c": {1: 11}, "d": {2: 7}})
    assert host.memory.holders(KEY) == ("s3", ["c", "b"])
    assert not host.memory.needs_nobody(KEY)
    host.where = Where("s3", {"a": {1: 12}, "b": {1: 10}})
    assert host.memory.holders(KEY) == ("s3", ["c", "b"])
    host.now += 10.0
    assert host.memory.holders(KEY) == ("s3", ["b"])
    assert host.memory.needs_nobody(KEY)
    assert host.asked == ["r/model.ckpt-3"] * 2


def test_nobody_is_known_to_have_anything_while_the_coordinator_is_away(host):
    host.is_there = False
    assert host.memory.holders(KEY) == ("", [])
    assert host.memory.read(KEY, 0, memoryview(bytearray(5))) == [(0, 5)]


def test_memory_that_was_found_damaged_is_not_read_for_a_while(host):
    host.where = Where("s3", {"a": {1: 10}})
    assert host.memory.read(KEY, 0, memoryview(bytearray(5))) == []
    host.memory.distrust(KEY)
    assert host.memory.read(KEY, 0, memoryview(bytearray(5))) == [(0, 5)]
    host.now += 3600.0
    assert host.memory.read(KEY, 0, memoryview(bytearray(5))) == []
