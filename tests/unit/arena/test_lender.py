"""Memory is lent within a bound, to one process per rank, and finds its way back."""

from __future__ import annotations

import numpy as np
import pytest

from ckptd.arena.lender import Lender, Tenant
from ckptd.engine.lanes.capture import Holding, Stretch
from ckptd.errors import ConflictError, InvalidRequestError, SessionAbortedError, StorageFullError

MB = 1 << 20
HERE, THERE = Tenant("r", 0), Tenant("r", 1)
NOTHING = np.zeros(0, np.int64)


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def lender(clock):
    lender = Lender(10 * MB, clock)
    yield lender
    lender.close()


def ids(arenas):
    return [arena.id for arena in arenas]


def begin(lender, place, owner, arena, sizes=(), offsets=()):
    return lender.begin(
        place,
        owner,
        arena.id,
        arena.segment.begin(),
        np.array(offsets, np.int64),
        np.array(sizes, np.int64),
        len(sizes),
    )


def test_the_bound_holds_whoever_asks(lender):
    assert len(lender.lend(HERE, "a", 4 * MB, 2)) == 2
    with pytest.raises(StorageFullError, match="--arena-bytes"):
        lender.lend(THERE, "b", 4 * MB, 2)
    assert len(lender.lend(THERE, "b", MB, 2)) == 2
    assert lender.size_bytes == 10 * MB


def test_fewer_are_lent_where_there_is_room_for_fewer(lender):
    assert len(lender.lend(HERE, "a", 6 * MB, 2)) == 1


def test_asking_again_gives_the_same_and_larger_ones_replace_smaller_ones(lender):
    first = lender.lend(HERE, "a", MB, 2)
    assert ids(lender.lend(HERE, "a", MB // 2, 2)) == ids(first)
    larger = lender.lend(HERE, "a", 2 * MB, 2)
    assert not set(ids(larger)) & set(ids(first))
    assert lender.size_bytes == 4 * MB


def test_who_takes_the_place_of_one_that_is_gone_gets_its_memory(lender):
    first = lender.lend(HERE, "a", MB, 2)
    lender.leave(HERE, "a")
    assert ids(lender.lend(HERE, "b", MB, 2)) == ids(first)
    with pytest.raises(ConflictError, match="is not lent"):
        begin(lender, HERE, "a", first[0])


def test_memory_of_who_is_gone_is_reclaimed_when_others_want_it_and_after_a_while(lender, clock):
    lender.lend(HERE, "a", 4 * MB, 2)
    lender.leave(HERE, "a")
    assert len(lender.lend(THERE, "b", 4 * MB, 2)) == 2
    lender.leave(THERE, "b")
    clock.now_s = 599.0
    lender.tick()
    assert lender.size_bytes == 8 * MB
    clock.now_s = 601.0
    lender.tick()
    assert lender.size_bytes == 0


def test_memory_that_a_save_is_written_from_is_nobody_elses(lender, clock):
    (arena,) = lender.lend(HERE, "a", 6 * MB, 1)
    capture = begin(lender, HERE, "a", arena)
    with pytest.raises(ConflictError, match="still being written from"):
        begin(lender, HERE, "a", arena)
    lender.leave(HERE, "a")
    clock.now_s = 1e6
    with pytest.raises(StorageFullError):
        lender.lend(THERE, "b", 6 * MB, 1)
    capture.ended()
    capture.ended()
    assert len(lender.lend(THERE, "b", 6 * MB, 1)) == 1


def test_who_takes_a_place_is_not_lent_what_its_predecessors_save_is_written_from(lender):
    first = lender.lend(HERE, "a", MB, 2)
    begin(lender, HERE, "a", first[0])
    lender.leave(HERE, "a")
    assert first[0].id not in ids(lender.lend(HERE, "b", MB, 2))
    assert len(lender.lend(HERE, "b", MB, 2)) == 2


def test_memory_of_a_process_that_lost_its_place_and_lives_is_filled_by_no_other(lender, clock):
    first = lender.lend(HERE, "a", MB, 2)
    begin(lender, HERE, "a", first[0]).ended()  # its save was given up; it is stopped in the middle of its copy
    second = lender.lend(HERE, "b", MB, 2)
    assert not set(ids(second)) & set(ids(first))
    assert not set(ids(lender.lend(HERE, "b", MB, 2))) & set(ids(first))
    lender.leave(HERE, "a")
    assert ids(lender.lend(HERE, "b", MB, 2)) == ids(second)
    clock.now_s = 601.0
    lender.tick()
    assert lender.size_bytes == 2 * MB


def test_asking_again_in_the_middle_of_a_save_gives_the_same(lender):
    first = lender.lend(HERE, "a", MB, 2)
    begin(lender, HERE, "a", first[0])
    assert sorted(ids(lender.lend(HERE, "a", MB, 2))) == sorted(ids(first))


@pytest.mark.parametrize(("offset", "size"), [(-1, 1), (MB, 1), (0, MB + 4097), (2**62, 2**62)])
def test_parts_outside_of_the_memory_are_refused(lender, offset, size):
    (arena,) = lender.lend(HERE, "a", MB, 1)
    with pytest.raises(InvalidRequestError, match="outside"):
        begin(lender, HERE, "a", arena, sizes=[size], offsets=[offset])


@pytest.mark.parametrize(("size", "count"), [(0, 1), (-1, 1), (1, 0), (1, 3)])
def test_what_nobody_can_lend_is_refused(lender, size, count):
    with pytest.raises(InvalidRequestError):
        lender.lend(HERE, "a", size, count)


def test_a_saved_checkpoint_is_held_until_its_memory_is_filled_anew(lender):
    one, two = lender.lend(HERE, "a", MB, 2)
    capture = begin(lender, HERE, "a", one)
    stretch = Stretch("r/m-1.data-00000-of-00001", 0, 0, 100)
    capture.saved(Holding("save 1", 77, [stretch]))
    capture.ended()
    saved = lender.held("r", "save 1")
    (held,) = saved.stretches
    assert (saved.index_crc32c, held.arena, held.generation, held.stretch) == (77, one, 1, stretch)
    begin(lender, HERE, "a", two).ended()
    assert lender.held("r", "save 1")
    begin(lender, HERE, "a", one).ended()
    assert not lender.held("r", "save 1")


def test_what_is_saved_no_more_is_offered_no_more_and_readers_that_know_of_it_see_so(lender):
    arenas = lender.lend(HERE, "a", MB, 2)
    (other,) = lender.lend(THERE, "b", MB, 1)
    for number, (place, owner, arena) in enumerate(
        [(HERE, "a", arenas[0]), (HERE, "a", arenas[1]), (THERE, "b", other)]
    ):
        capture = begin(lender, place, owner, arena)
        capture.saved(Holding(f"save {number % 2}", 0, [Stretch("shard", 0, 0, 100)]))
        capture.ended()
    assert len(lender.held("r", "save 0").stretches) == 2
    lender.keep_only("another run", [])
    lender.keep_only("r", ["save 1"])
    assert lender.held("r", "save 0") is None
    assert lender.held("r", "save 1")
    assert [arena.segment.holds(1) for arena in (arenas[0], other, arenas[1])] == [False, False, True]
    begin(lender, THERE, "b", other).ended()
    assert other.segment.holds(2), "the next save is another one"


def test_of_a_save_of_two_ranks_one_part_stays_when_the_other_is_overwritten(lender):
    (one,), (two,) = lender.lend(HERE, "a", MB, 1), lender.lend(THERE, "b", MB, 1)
    for place, owner, arena in ((HERE, "a", one), (THERE, "b", two)):
        capture = begin(lender, place, owner, arena)
        capture.saved(Holding("save", 0, [Stretch("shard", 0, 0, 100)]))
        capture.ended()
    begin(lender, HERE, "a", one)
    assert [each.arena for each in lender.held("r", "save").stretches] == [two]
    lender.keep_only("r", [])
    assert not two.segment.holds(1)


def test_the_one_whose_content_is_oldest_comes_first(lender, clock):
    one, two = lender.lend(HERE, "a", MB, 2)
    for now_s, arena in enumerate((two, one), start=1):
        clock.now_s = now_s
        capture = begin(lender, HERE, "a", arena)
        capture.saved(Holding("save", 0, []))
        capture.ended()
    assert ids(lender.lend(HERE, "a", MB, 2)) == [two.id, one.id]


def test_a_capture_tells_how_far_it_is(lender):
    (arena,) = lender.lend(HERE, "a", MB, 1)
    capture = begin(lender, HERE, "a", arena, sizes=[7], offsets=[0])
    arena.segment.captured = 5
    assert capture.available == 5
    with pytest.raises(InvalidRequestError, match="wrong number"):
        capture.give_sums(np.zeros(0, np.uint32))
    capture.seal()
    assert capture.available >= 7
    assert capture.sums() is None
    capture.give_sums(np.array([1], np.uint32))
    assert capture.sums().tolist() == [1]


def test_who_dies_before_sealing_ends_the_capture_and_who_dies_after_it_does_not(lender):
    one, two = lender.lend(HERE, "a", MB, 2)
    unsealed, sealed = begin(lender, HERE, "a", one), begin(lender, HERE, "a", two, sizes=[7], offsets=[0])
    sealed.seal()
    for capture in (unsealed, sealed):
        capture.abandon(SessionAbortedError("it died"))
    with pytest.raises(SessionAbortedError, match="it died"):
        unsealed.check()
    sealed.check()
    assert sealed.sums().tolist() == []
    assert not unsealed.is_sealed


def test_held_bytes_are_read_by_their_place_in_the_shard_with_what_is_missing_and_not_once_they_are_overwritten(lender):
    one, two = lender.lend(HERE, "a", MB, 2)
    for arena, stretches in ((one, [(20, 0, 10), (40, 10, 10)]), (two, [(30, 0, 5)])):
        capture = begin(lender, HERE, "a", arena)
        arena.segment.data[:20] = np.arange(20) + (100 if arena is two else 0)
        capture.saved(Holding("save 1", 0, [Stretch("shard", *each) for each in stretches]))
        capture.ended()
    assert lender.held_shards() == [("r", "save 1", {"shard": 25})]
    into = bytearray(60)
    assert lender.read_held("r", "save 1", "shard", 0, memoryview(into)) == [(0, 20), (35, 40), (50, 60)]
    assert list(into[20:35]) == [*range(10), *range(100, 105)]
    assert list(into[40:50]) == list(range(10, 20))
    part = bytearray(4)
    assert lender.read_held("r", "save 1", "shard", 28, memoryview(part)) == []
    assert list(part) == [8, 9, 100, 101]
    assert lender.read_held("r", "save 2", "shard", 28, memoryview(part)) == [(0, 4)]
    assert lender.read_held("r", "save 1", "another", 28, memoryview(part)) == [(0, 4)]
    before = lender.changes
    two.segment.begin()  # its rank captures the next save
    assert lender.read_held("r", "save 1", "shard", 28, memoryview(part)) == [(2, 4)]
    begin(lender, HERE, "a", two).ended()
    assert lender.held_shards() == [("r", "save 1", {"shard": 20})]
    lender.drop("r", ["save 1"])
    assert lender.held_shards() == []
    assert lender.changes > before
    assert not one.segment.holds(one.segment.generation)
