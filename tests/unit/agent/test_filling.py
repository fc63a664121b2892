"""What an agent cannot write it says before the first byte."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ckptd.agent.filling import MOST_SLICES, fill
from ckptd.engine.clock import SystemClock
from ckptd.engine.hosts.messages import Go
from ckptd.engine.lanes.host_share import part_of
from ckptd.engine.lanes.plan import plan
from ckptd.errors import InvalidRequestError
from ckptd.storage.memory import MemoryStore
from ckptd.storage.pace import Pace
from tests.fakes.ranks import six_on_three_hosts


def test_more_slices_than_a_receipt_can_tell_are_refused_before_anything_is_written():
    ranks, hosts = six_on_three_hosts()
    share = part_of(plan(ranks.manifests, 1, hosts=hosts), "b")
    many = replace(share.layout, segment_size=np.zeros(MOST_SLICES + 1, np.int64))
    size, store = many.shard_sizes[share.shard], MemoryStore("agent")
    go = Go(7, "q", "s1", 3, share.shard, "r/m-5.data-1", size, share.whole_digest, many)
    with pytest.raises(InvalidRequestError, match=f"save fewer, larger tensors.*at most {MOST_SLICES}"):
        fill(store, go, SystemClock(), Pace(), on_end=lambda: None, on_failure=lambda error: None)
    assert not list(store.list(""))
