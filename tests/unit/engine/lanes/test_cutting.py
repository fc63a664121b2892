"""Shards by host: each is of one host and one range of rows, and only what cannot be sliced crosses hosts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ckptd.engine.lanes.cutting import choose_hosts, cut_by_host
from ckptd.engine.lanes.host_share import crossing_bytes, part_of
from ckptd.engine.lanes.plan import plan
from ckptd.engine.layout import Layout, Literal, SliceSet
from ckptd.engine.replicas import NO_REPLICAS
from ckptd.errors import NotFoundError
from ckptd.format import dtypes
from tests.fakes.ranks import Ranks, six_on_three_hosts


def test_each_shard_is_one_range_of_rows_and_its_bytes_come_from_its_host():
    ranks, hosts = six_on_three_hosts()
    layout = plan(ranks.manifests, 5, 1, hosts=hosts)
    assert layout.shard_hosts == ("a", "b", "c")
    for shard, host in enumerate(layout.shard_hosts):
        rows = np.flatnonzero(layout.segment_shard == shard)
        assert rows.tolist() == list(range(*layout.rows_of(shard).indices(len(layout.segment_size))))
        for row in rows.tolist():
            tensor = layout.entry_tensor[layout.segment_entry[row]]
            is_foreign = hosts[layout.segment_rank[row]] != host
            assert not is_foreign or not dtypes.by_number(layout.dtypes[tensor]).joinable
    assert crossing_bytes(layout, hosts) == sum(
        int(size)
        for rank, shard, size in zip(layout.segment_rank, layout.segment_shard, layout.segment_size, strict=True)
        if hosts[rank] != layout.shard_hosts[shard]
    )


def test_a_host_is_a_host_wherever_its_ranks_are_among_the_others():
    ranks, _ = six_on_three_hosts()
    layout = plan(ranks.manifests, 1, 1, hosts=["x", "y", "x", "y", "y", "x"])
    assert layout.shard_hosts == ("x", "y")
    assert {rank for rank, shard in layout.lane_segments if shard == 1} >= {1, 3, 4}


def test_a_host_without_bytes_has_no_shard_and_empty_tensors_go_with_the_others():
    ranks = Ranks(3)
    ranks.hold("nothing", np.zeros((0, 2), np.float32), {0: None})
    ranks.hold("all", np.arange(6), {1: None})
    layout = plan(ranks.manifests, 1, 1, hosts=["a", "b", "c"])
    assert (layout.shard_hosts, layout.shard_sizes) == (("b",), (48,))
    with pytest.raises(NotFoundError, match="host 'a' writes no shard"):
        part_of(layout, "a")


def test_a_save_without_a_byte_has_one_shard_all_the_same():
    ranks = Ranks(2)
    ranks.hold("nothing", np.zeros((0, 2), np.float32), {1: None})
    layout = plan(ranks.manifests, 1, 1, hosts=["a", "b"])
    assert (layout.shard_hosts, layout.shard_sizes) == (("b",), (0,))


def test_what_crosses_hosts_is_spread_over_those_that_hold_it_by_what_they_have_to_write():
    entry, hosts = np.array([0, 1, 1, 2, 2, 3, 3]), np.array([0, 0, 1, 0, 1, 1, 2])
    sizes = np.array([100, 20, 20, 30, 30, 5, 5])
    assert choose_hosts(entry, hosts, sizes).tolist() == [0, 1, 1, 2]
    shard, of_shard = cut_by_host(np.array([0, 5, 0, 7, 0]), np.array([0, 1, 2, 3, 4]))
    assert (shard.tolist(), of_shard.tolist()) == ([0, 0, 0, 1, 1], [1, 3])


def test_the_digest_of_a_layout_is_the_same_in_every_process_and_release():
    def column(*numbers: int) -> np.ndarray:
        return np.array(numbers, np.int64)

    layout = Layout(
        names=("w", "words"),
        dtypes=(1, 7),
        full_shapes=((4, 2), (1,)),
        shard_sizes=(16, 25),
        entry_tensor=column(0, 0, 1),
        entry_shard=column(0, 1, 1),
        entry_offset=column(0, 0, 16),
        entry_size=column(16, 16, 9),
        entry_lengths_crc=np.array([0, 0, 1 << 31], np.uint32),
        slices={0: SliceSet(column(0, 0, 2, 0).reshape(2, 2), column(2, 2, 2, 2).reshape(2, 2), column(0, 1))},
        segment_entry=column(0, 1, 2, 2),
        segment_rank=column(0, 1, 1, 1),
        segment_item=column(0, 0, 1, 1),
        segment_item_offset=column(0, 0, 0, 5),
        segment_size=column(16, 16, 1, 4),
        segment_offset=column(0, 0, 16, 21),
        segment_is_lengths=np.array([False, False, True, False]),
        literals=(Literal(1, 17, b"\1\2\3\4"),),
        replicas=NO_REPLICAS,
        shard_hosts=("h0", "h1"),
    )
    assert layout.digest.hex() == "daff4fb0708833ef378d2734f7e44b2d6f82699a393b00339c7e03ccd344a911"
    assert replace(layout, shard_sizes=(16, 25, 0, 0)).digest == layout.digest, "empty shards are of an attempt"


def test_the_digest_tells_where_a_byte_goes_and_to_whom():
    ranks, hosts = six_on_three_hosts()
    layouts = [
        plan(ranks.manifests, 1, 1, hosts=hosts),
        plan(ranks.manifests, 1, 1, hosts=["a", "a", "b", "b", "c", "d"]),
        plan(ranks.manifests, 1, 1, hosts=["a", "a", "b", "b", "x", "x"]),
        plan(ranks.manifests, 1, 1),
    ]
    other, _ = six_on_three_hosts()
    other.hold("more", np.zeros(1), {0: None})
    layouts.append(plan(other.manifests, 1, 1, hosts=hosts))
    assert len({layout.digest for layout in layouts}) == len(layouts)
