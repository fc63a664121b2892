"""What a shard does for its save, wherever it is filled."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import pytest

from ckptd.engine.lanes.plan import plan
from ckptd.engine.lanes.shard import Shard
from ckptd.errors import NotFoundError, SessionAbortedError
from ckptd.format import crc32c
from ckptd.storage.memory import MemoryStore
from tests.fakes.clock import HandClock
from tests.fakes.ranks import six_on_three_hosts

NUMBER = 1
KEY = "model.ckpt-7.data-00001-of-00003"


class ShardCase(ABC):
    """One shard of a save of six ranks on three hosts, the ranks, and what writes their bytes."""

    shard: Shard

    def __init__(self) -> None:
        self.ranks, self.hosts = six_on_three_hosts()
        self.layout = plan(self.ranks.manifests, 1, hosts=self.hosts)
        self.store, self.clock = MemoryStore(), HandClock()
        self.senders = self.layout.senders_of[NUMBER]

    @abstractmethod
    def send(self, rank: int) -> None:
        """Let all bytes of a rank arrive where the shard is filled."""

    @abstractmethod
    def complete(self) -> None:
        """Let the shard know that no rank owes it anything."""


class ShardContract:
    """Subclasses bring a fixture `case`."""

    def test_it_is_one_range_of_the_segments(self, case: ShardCase) -> None:
        assert case.shard.key == KEY
        assert case.shard.rows == case.layout.rows_of(NUMBER)

    def test_at_first_every_sender_owes_all_its_bytes(self, case: ShardCase) -> None:
        case.clock.advance(3.0)
        debts = case.shard.debts()
        assert sorted(debts) == list(case.senders)
        for rank, debt in debts.items():
            assert debt.total_bytes == len(case.ranks.lane(case.layout, rank, NUMBER))
            assert (debt.owed_bytes, debt.idle_s) == (debt.total_bytes, 3.0)

    def test_a_rank_that_has_sent_all_owes_nothing(self, case: ShardCase) -> None:
        first, *others = case.senders
        case.send(first)
        debts = case.shard.debts()
        assert debts[first].owed_bytes == 0
        assert all(debts[rank].owed_bytes > 0 for rank in others)

    def test_with_all_bytes_it_is_durable_and_knows_the_checksum_of_every_segment(self, case: ShardCase) -> None:
        for rank in case.senders:
            case.send(rank)
        case.complete()
        assert case.shard.finish()
        assert case.store.stat(KEY).size_bytes == case.layout.shard_sizes[NUMBER]
        expected = np.zeros(case.shard.rows.stop - case.shard.rows.start, np.uint32)
        for rank in case.senders:
            data, rows = case.ranks.lane(case.layout, rank, NUMBER), case.layout.lane_segments[rank, NUMBER]
            ends = np.cumsum(case.layout.segment_size[rows]).tolist()
            crcs = [crc32c.crc32c(data[begin:end]) for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
            expected[rows - case.shard.rows.start] = crcs
        assert case.shard.crcs.tolist() == expected.tolist()
        assert all(debt.owed_bytes == 0 for debt in case.shard.debts().values())

    def test_once_closed_it_takes_nothing_more_and_is_not_made_durable(self, case: ShardCase) -> None:
        case.shard.close(SessionAbortedError("a rank gave up"))
        with pytest.raises(SessionAbortedError, match="a rank gave up"):
            for rank in case.senders:
                case.send(rank)
            case.complete()
        assert not case.shard.finish()
        for _ in range(2):
            case.shard.abort()
        with pytest.raises(NotFoundError):
            case.store.stat(KEY)
