"""What a host writes, and what it passes on to others, make up all that its ranks hold."""

from __future__ import annotations

import numpy as np

from ckptd.engine.lanes.host_share import crossing_bytes, part_of, passed_on
from ckptd.engine.lanes.plan import plan
from tests.fakes.ranks import six_on_three_hosts


def test_what_a_host_passes_on_are_the_lanes_of_its_ranks_to_other_hosts():
    ranks, hosts = six_on_three_hosts()
    layout = plan(ranks.manifests, 1, hosts=hosts)
    crossing = 0
    for host in "abc":
        ours = [rank for rank, each in enumerate(hosts) if each == host]
        own, lanes = part_of(layout, host), {}
        for shard, part in passed_on(layout, ours, host):
            assert layout.host_of(shard) != host
            assert part.shard_sizes[shard] == layout.shard_sizes[shard]
            lanes.update({key: ranks.lane(part, *key) for key in part.lane_segments})
            crossing += int(part.segment_size.sum())
            used = part.entry_tensor[part.segment_entry]
            assert {part.dtypes[tensor] for tensor in used} <= {19, 17, 7}  # half, uint16, string
        wanted = {
            (rank, shard): ranks.lane(layout, rank, shard) for rank in ours for shard in layout.shards_of.get(rank, ())
        }
        here = {(rank, own.shard) for rank in ours if (rank, own.shard) in own.layout.lane_segments}
        assert lanes.keys() | here == wanted.keys()
        assert lanes == {key: wanted[key] for key in lanes}
    assert crossing == crossing_bytes(layout, hosts) > 0


def test_a_host_whose_tensors_all_join_passes_nothing_on():
    ranks, hosts = six_on_three_hosts()
    ranks = type(ranks)(6)
    ranks.rows("w", np.zeros((12, 2), np.float32), range(6))
    layout = plan(ranks.manifests, 1, hosts=hosts)
    assert list(passed_on(layout, [0, 1], "a")) == []
