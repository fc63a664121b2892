"""Shards that are filled here and by an agent: the same to their save; and which receipts count."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ckptd.engine.hosts.messages import AgentLife, Receipt
from ckptd.engine.lanes.elsewhere import RemoteShard
from ckptd.engine.lanes.filled_shard import FilledShard
from ckptd.engine.lanes.host_share import part_of
from ckptd.engine.layout import Layout
from ckptd.errors import ConflictError
from ckptd.storage.base import Durability
from tests.suites.shard_contract import KEY, NUMBER, ShardCase, ShardContract


def filled(case: ShardCase, layout: Layout) -> FilledShard:
    writer = case.store.create(KEY, case.layout.shard_sizes[NUMBER])
    shard = FilledShard(
        layout, NUMBER, writer, now=case.clock.boot_s, on_end=lambda *_: None, on_failure=lambda _: None
    )
    shard.begin()
    return shard


class HereCase(ShardCase):
    def __init__(self) -> None:
        super().__init__()
        self.shard = filled(self, self.layout)

    def send(self, rank: int) -> None:
        self.ranks.fill(self.layout, [self.shard.lanes[rank]])

    def complete(self) -> None:
        """Its lanes have told it."""


class ElsewhereCase(ShardCase):
    """Its agent is a `FilledShard` over its part of the layout, and tells of it."""

    def __init__(self) -> None:
        super().__init__()
        durability = self.store.durability
        self.shard: RemoteShard = RemoteShard(
            self.layout, NUMBER, KEY, "s1", durability=durability, now=self.clock.boot_s
        )
        self.share = part_of(self.layout, "b")
        self.there = filled(self, self.share.layout)

    def send(self, rank: int) -> None:
        self.ranks.fill(self.share.layout, [self.there.lanes[rank]])
        self.shard.note_progress({rank: debt.owed_bytes for rank, debt in self.there.debts().items()})

    def receipt(self) -> Receipt:
        sums = self.there.crcs.astype("<u4").tobytes()
        size = self.layout.shard_sizes[NUMBER]
        return Receipt("s1", AgentLife("b", "b-1"), NUMBER, KEY, size, "v1", self.store.durability, sums)

    def complete(self) -> None:
        receipt = self.receipt()
        assert self.shard.take(receipt)
        self.there.finish()
        assert not self.shard.take(receipt), "a repeated receipt changes nothing"


class TestFilledShard(ShardContract):
    @pytest.fixture
    def case(self) -> HereCase:
        return HereCase()


class TestRemoteShard(ShardContract):
    @pytest.fixture
    def case(self) -> ElsewhereCase:
        return ElsewhereCase()

    @pytest.mark.parametrize(
        "wrong",
        [
            {"save": "s2"},
            {"by": AgentLife("c", "c-1")},
            {"shard": 0},
            {"key": "elsewhere"},
            {"size_bytes": 1},
            {"durability": Durability.OBJECT_STORE},
            {"sums": b"\0\0\0\0"},
            {"sums": b"\0"},
        ],
    )
    def test_a_receipt_for_anything_else_is_refused_and_leaves_it_owed(self, case: ElsewhereCase, wrong: dict) -> None:
        with pytest.raises(ConflictError, match="something else than it was told to write"):
            case.shard.take(replace(case.receipt(), **wrong))
        assert not case.shard.finish()
        assert all(debt.owed_bytes for debt in case.shard.debts().values())

    def test_two_receipts_of_one_shard_are_never_believed(self, case: ElsewhereCase) -> None:
        for rank in case.senders:
            case.send(rank)
        case.complete()
        for other in ({"version": "v2"}, {"sums": bytes(len(case.receipt().sums))}):
            with pytest.raises(ConflictError, match="two different receipts"):
                case.shard.take(replace(case.receipt(), **other))
        assert np.array_equal(case.shard.crcs, case.there.crcs)

    def test_a_later_life_owes_everything_again_unless_there_is_a_receipt(self, case: ElsewhereCase) -> None:
        case.send(case.senders[0])
        case.shard.begin_anew()
        assert all(debt.owed_bytes == debt.total_bytes for debt in case.shard.debts().values())
        for rank in case.senders:
            if rank != case.senders[0]:
                case.send(rank)
        case.complete()
        case.shard.begin_anew()
        assert not any(debt.owed_bytes for debt in case.shard.debts().values())
