"""Blocks have owners that all hosts agree on: evenly shared out, and few change when hosts come and go."""

from __future__ import annotations

from collections import Counter

import pytest

from ckptd.agent.neighbourhood import GROUP_BLOCKS, Neighbour, Neighbourhood, owners_of
from ckptd.errors import UnavailableError

KEY = "r/model.ckpt-1.data-00000-of-00001"
HOSTS = [f"h{number}" for number in range(20)]


@pytest.mark.parametrize("num_hosts", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("count", [1, 3, 13, GROUP_BLOCKS])
def test_a_group_of_blocks_is_shared_out_evenly(num_hosts, count):
    hosts = HOSTS[:num_hosts]
    owners = owners_of(KEY, "v", 128, count, hosts)
    shares = [Counter(owners)[host] for host in hosts]
    assert max(shares) - min(shares) <= 1
    assert owners == owners_of(KEY, "v", 128, count, hosts[::-1])


def test_who_has_one_block_more_differs_between_files():
    found = {tuple(owners_of(f"{KEY}{number}", "v", 0, 1, HOSTS)) for number in range(100)}
    assert len(found) > 10


def test_what_a_silent_host_owns_goes_to_others_and_nothing_else_changes():
    before = owners_of(KEY, "v", 0, GROUP_BLOCKS, HOSTS)
    after = owners_of(KEY, "v", 0, GROUP_BLOCKS, HOSTS, {"h7", "h8"})
    assert {"h7", "h8"} <= set(before)
    assert not {"h7", "h8"} & set(after)
    assert all(old == new for old, new in zip(before, after, strict=True) if old not in ("h7", "h8"))


@pytest.mark.parametrize("num_hosts", [4, 20])
def test_most_blocks_keep_their_owner_when_a_host_goes(num_hosts):
    hosts = HOSTS[:num_hosts]
    kept = of_others = 0
    for group in range(20):
        before = owners_of(KEY, "v", group * GROUP_BLOCKS, GROUP_BLOCKS, hosts)
        after = owners_of(KEY, "v", group * GROUP_BLOCKS, GROUP_BLOCKS, hosts[1:])
        of_others += sum(old != hosts[0] for old in before)
        kept += sum(old == new for old, new in zip(before, after, strict=True) if old != hosts[0])
    assert kept > 0.6 * of_others


def test_without_a_coordinator_each_host_owns_all():
    def find() -> list[Neighbour]:
        raise UnavailableError("the coordinator is away")

    assert Neighbourhood("a", find).owner(KEY, "v", 3, 6) is None
