"""What an agent was told to write is known for as long as it may be planned again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ckptd.agent.known_shares import KnownShares
from ckptd.engine.hosts.messages import Go
from ckptd.engine.lanes.host_share import part_of
from ckptd.engine.lanes.plan import plan
from ckptd.errors import NotFoundError
from tests.fakes.many_hosts import declaration
from tests.fakes.ranks import six_on_three_hosts

SAID = declaration("b", 5, (2, 3), 6)


def told():
    ranks, hosts = six_on_three_hosts()
    share = part_of(plan(ranks.manifests, 1, hosts=hosts), "b")
    size = share.layout.shard_sizes[share.shard]
    return Go(7, "q", "s1", 3, share.shard, "runs/r/m-5.data-1", size, share.whole_digest, share.layout)


def test_what_was_told_once_need_not_be_told_again():
    known, go = KnownShares(), told()
    assert known.added_to(SAID).known_layout == b""
    assert known.completed(go, SAID) is go
    assert known.added_to(SAID).known_layout == go.layout_digest
    assert known.added_to(replace(SAID, manifest_digest=b"other")).known_layout == b""
    assert known.completed(replace(go, share=None), SAID).share is go.share


def test_empty_shards_of_another_attempt_are_added():
    known, go = KnownShares(), told()
    known.completed(go, SAID)
    padded = known.completed(replace(go, share=None, num_shards=5), SAID)
    assert padded.share is not None
    assert padded.share.num_shards == 5
    assert padded.share.shard_sizes[go.shard] == go.size_bytes
    assert sum(padded.share.shard_sizes) == go.size_bytes


def test_what_was_not_told_is_refused_and_what_was_told_long_ago_is_forgotten():
    known, go = KnownShares(), told()
    with pytest.raises(NotFoundError, match="did not say which bytes go where"):
        known.completed(replace(go, share=None), SAID)
    known.completed(go, SAID)
    for number in range(16):
        later = replace(SAID, manifest_digest=bytes([number]))
        known.completed(replace(go, layout_digest=bytes([number])), later)
        assert known.added_to(later).known_layout == bytes([number])
    assert known.added_to(SAID).known_layout == b""
    nothing = replace(go, shard=None, share=None)
    assert known.completed(nothing, SAID) is nothing
