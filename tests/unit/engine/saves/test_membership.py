"""Places of a run: held while connected and for a lease after; never taken over, fenced by epochs."""

from __future__ import annotations

import pytest

from ckptd.engine.identity import Member, RunOptions
from ckptd.engine.saves.membership import Membership
from ckptd.errors import ConflictError, EvictedError, InvalidRequestError


def member(rank: int, life: str = "a", world_size: int = 2) -> Member:
    return Member(rank, world_size, f"{life}{rank}", "host", 100 + rank)


def joined() -> Membership:
    places = Membership(lease_s=5.0)
    assert [places.join(member(0), 0.0), places.join(member(1), 0.0)] == [1, 1]
    return places


def test_ranks_of_one_job_share_an_epoch_in_any_order():
    places = Membership(lease_s=5.0)
    assert [places.join(member(1), 0.0), places.join(member(0), 9.0), places.join(member(1), 9.0)] == [1, 1, 1]
    assert places.connected() == [0, 1]


def test_a_second_job_is_refused_while_the_first_holds_its_places():
    places = joined()
    with pytest.raises(ConflictError, match="the run is in use.*pid 100 on host"):
        places.join(member(0, "b"), 1.0)
    with pytest.raises(ConflictError, match="in use"):
        places.join(member(2, "b", world_size=3), 1.0)


def test_a_refusal_says_when_the_place_is_free_if_its_process_is_gone():
    places = joined()
    with pytest.raises(ConflictError) as held:
        places.join(member(0, "b"), 1.0)
    assert held.value.free_in_s is None
    places.disconnect(member(1), 1, now=1.0)
    places.disconnect(member(0), 1, now=2.0)
    with pytest.raises(ConflictError) as lost:
        places.join(member(0, "b", world_size=1), 4.0)
    assert (lost.value.holder, lost.value.free_in_s) == ("rank 0 of 2 (pid 100 on host)", 3.0)
    assert places.join(member(0, "b", world_size=1), 7.0) == 2


def test_the_same_process_may_come_back_within_its_lease_and_after():
    places = joined()
    places.disconnect(member(0), 1, now=1.0)
    assert places.connected() == [1]
    assert places.join(member(0), 3.0) == 1
    places.disconnect(member(0), 1, now=4.0)
    assert places.join(member(0), 40.0) == 1
    assert places.lost(50.0) == {}


def test_a_lost_rank_counts_as_gone_when_its_lease_has_run_out():
    places = joined()
    places.disconnect(member(0), 1, now=1.0)
    assert places.lost(5.9) == {}
    assert places.lost(6.5) == {0: ("rank 0 of 2 (pid 100 on host)", 5.5)}


def test_a_place_that_fell_free_starts_a_new_epoch_and_fences_the_old_processes_off():
    places = joined()
    places.disconnect(member(0), 1, now=0.0)
    with pytest.raises(ConflictError):
        places.join(member(0, "b"), 4.9)
    assert places.join(member(0, "b"), 5.0) == 2
    assert places.join(member(1, "b"), 5.0) == 2
    with pytest.raises(ConflictError, match="rank 1 of epoch 1 is fenced off by epoch 2"):
        places.check(1, "a1", 1)
    places.disconnect(member(1), 1, now=6.0)  # the old one's connection breaks only now
    assert places.connected() == [0, 1]
    places.check(1, "b1", 2)


def test_a_rank_of_the_next_job_waits_while_only_lost_ones_of_the_last_hold_a_place():
    places = joined()
    places.leave(member(1), 1)
    places.disconnect(member(0), 1, now=0.0)  # it was killed
    with pytest.raises(ConflictError, match="in use.*pid 100"):
        places.join(member(1, "b"), 1.0)
    assert places.join(member(0), 2.0) == 1  # it is back: the same job goes on
    assert places.join(member(1, "b"), 2.0) == 1
    places.leave(member(1, "b"), 1)
    places.disconnect(member(0), 1, now=3.0)
    assert [places.join(member(1, "c"), 8.0), places.join(member(0, "c"), 8.0)] == [2, 2]
    places.check(1, "c1", 2)


def test_another_number_of_ranks_may_start_when_all_places_fell_free():
    places = joined()
    places.leave(member(0), 1)
    with pytest.raises(ConflictError):
        places.join(member(0, "b", world_size=3), 0.0)
    places.leave(member(1), 1)
    assert places.join(member(2, "b", world_size=3), 0.0) == 2


@pytest.mark.parametrize("first", [0, 1])
def test_ranks_that_were_given_different_options_are_refused_whoever_comes_first(first):
    options = [RunOptions(max_to_keep=None), RunOptions()]
    places = Membership(lease_s=5.0)
    places.join(member(first), 0.0, options[first])
    with pytest.raises(InvalidRequestError) as caught:
        places.join(member(1 - first), 0.0, options[1 - first])
    for fact in ("rank 0 of 2 (pid 100 on host)", "rank 1 of 2 (pid 101 on host)", "max_to_keep", "None", "5"):
        assert fact in str(caught.value)
    assert places.connected() == [first]
    places.leave(member(first), 1)
    assert places.join(member(1 - first), 0.0, options[1 - first]) == 1


def test_options_of_a_rank_that_is_lost_count_as_long_as_its_lease():
    places = joined()
    places.leave(member(0), 1)
    places.disconnect(member(1), 1, now=1.0)
    with pytest.raises(ConflictError, match="another max_to_keep than rank 1"):
        places.join(member(0, "b"), 2.0, RunOptions(max_to_keep=3))
    assert places.join(member(0, "b"), 7.0, RunOptions(max_to_keep=3)) == 2


def test_a_new_job_may_have_other_options():
    places = joined()
    for rank in (0, 1):
        places.leave(member(rank), 1)
    for rank in (0, 1):
        places.join(member(rank, "b"), 0.0, RunOptions(max_to_keep=3))
    assert places.connected() == [0, 1]


def test_a_process_that_never_joined_may_not_save():
    with pytest.raises(ConflictError, match="must join first"):
        joined().check(0, "stranger", 1)
    with pytest.raises(ConflictError):
        joined().check(0, "a0", 2)


@pytest.mark.parametrize("rank", [-1, 2, 100])
def test_there_is_no_rank_beyond_the_world(rank):
    with pytest.raises(InvalidRequestError):
        Membership(lease_s=5.0).join(member(rank), 0.0)


def test_an_evicted_process_holds_nothing_and_the_next_in_its_place_begins_an_epoch():
    places = joined()
    assert places.evict(1, "token:root") == [member(1)]
    assert places.connected() == [0]
    for refused in (lambda: places.check(1, "a1", 1), lambda: places.join(member(1), 1.0)):
        with pytest.raises(EvictedError, match="was evicted as rank 1 of the run by token:root"):
            refused()
    places.check(0, "a0", 1)
    assert places.join(member(1, "b"), 1.0) == 2
    with pytest.raises(ConflictError, match="evicted"):
        places.join(member(1), 2.0)
    with pytest.raises(ConflictError, match="fenced off by epoch 2"):
        places.check(0, "a0", 1)
    assert places.evict(1, "token:root") == [member(1, "b")]
    assert places.evict(1, "token:root") == []


def test_all_are_evicted_at_once_and_a_job_of_another_size_may_come():
    places = joined()
    assert places.evict(None, "uid:0") == [member(0), member(1)]
    assert places.is_free(0.0)
    assert places.join(member(0, "b", world_size=3), 0.0) == 2


def test_only_the_process_in_a_place_gives_it_back():
    places = joined()
    assert not places.leave(member(0, "stranger"), 1)
    assert not places.leave(member(0), 2)
    assert places.connected() == [0, 1]
    assert places.leave(member(0), 1)
    assert not places.leave(member(0), 1)
    places.evict(1, "token:root")
    assert not places.leave(member(1), 1)
    assert places.join(member(1, "b"), 0.0) == 2


def test_a_large_job_can_be_evicted_whole():
    places = Membership(lease_s=5.0)
    for rank in range(1500):
        places.join(member(rank, world_size=1500), 0.0)
    assert len(places.evict(None, "an operator")) == 1500
    assert (places.connected(), places.is_free(0.0)) == ([], True)
    with pytest.raises(ConflictError, match="evicted as rank 0"):
        places.join(member(0, world_size=1500), 1.0)


def test_those_that_are_lost_hold_their_places_until_the_lease_of_the_last_ends():
    places = joined()
    places.disconnect(member(1), 1, now=1.0)
    places.disconnect(member(0), 1, now=3.0)
    assert (places.is_free(7.9), list(places.lost(7.0))) == (False, [1])
    with pytest.raises(ConflictError, match="the run is in use"):
        places.join(member(2, "b", world_size=3), 7.9)
    assert places.join(member(0, "b"), 8.0) == 2
    assert places.lost(99.0) == {}
