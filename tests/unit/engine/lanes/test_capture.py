"""A capture is followed in the same way in both kinds of memory: a daemon's arena, and that of this process."""

from __future__ import annotations

import numpy as np
import pytest

from ckptd.arena.segment import ArenaFill, Segment
from ckptd.client.capture.buffers import RoomPool
from ckptd.client.direct.direct_rooms import FollowedRoom
from ckptd.engine.lanes.capture import Capture, Holding
from ckptd.errors import CorruptionError, InvalidRequestError, SessionAbortedError

SUMS = np.array([1, 2, 3], np.uint32)
OFFSETS = np.zeros(2, np.int64)
GONE = SessionAbortedError("the rank is gone")


class InArena:
    """What the rank fills, and what the engine follows."""

    def __init__(self):
        self.filled = Segment.create(4096)
        self.followed = ArenaFill(self.filled, self.filled.begin())


class InProcess:
    def __init__(self):
        self.filled = RoomPool().take(4096)
        self.followed = FollowedRoom(self.filled)


@pytest.fixture(params=[InArena, InProcess])
def memory(request):
    return request.param()


@pytest.fixture
def capture(memory):
    return Capture(memory.followed, OFFSETS, len(SUMS))


def test_the_engine_sees_what_is_in_place(memory, capture):
    assert capture.available == 0
    memory.filled.captured = 100
    memory.filled.data[:100] = 7
    assert capture.available == 100
    assert (capture.memory[:100] == 7).all()
    assert not capture.is_sealed
    assert not capture.wait_sealed(0)
    capture.seal()
    assert capture.wait_sealed(0)
    assert capture.available == len(capture.memory)
    capture.check()


def test_sums_come_once_and_in_the_right_number(capture):
    with pytest.raises(InvalidRequestError, match="wrong number"):
        capture.give_sums(SUMS[:2])
    assert capture.sums() is None
    assert not capture.wait_summed(0)
    capture.give_sums(SUMS)
    capture.give_sums(SUMS + np.uint32(1))
    assert capture.wait_summed(0)
    np.testing.assert_array_equal(capture.sums(), SUMS)


def test_a_rank_that_dies_before_all_is_in_place_ends_the_save(capture):
    capture.abandon(GONE)
    assert not capture.wait_sealed(0)
    assert not capture.wait_summed(0)
    with pytest.raises(SessionAbortedError, match="gone"):
        capture.check()
    capture.seal()  # too late
    assert not capture.is_sealed


def test_a_rank_that_dies_afterwards_is_needed_no_longer(capture):
    capture.seal()
    capture.abandon(GONE)
    capture.check()
    assert capture.wait_summed(0)
    assert len(capture.sums()) == 0  # the engine's own count


def test_a_rank_that_gives_up_ends_the_save_also_afterwards(capture):
    capture.seal()
    capture.fail(GONE)
    with pytest.raises(SessionAbortedError, match="gone"):
        capture.check()


def test_memory_that_is_filled_again_too_early_is_noticed():
    segment = Segment.create(4096)
    capture = Capture(ArenaFill(segment, segment.begin()), OFFSETS, len(SUMS))
    segment.captured = 4096
    segment.begin()
    segment.captured = 4096  # of the next filling
    assert capture.available == 0
    with pytest.raises(CorruptionError, match="fill memory again"):
        capture.check()
    capture.seal()
    capture.check()


def test_its_lender_hears_of_the_checkpoint_and_once_of_the_end(memory):
    heard = []
    capture = Capture(
        memory.followed, OFFSETS, len(SUMS), on_saved=heard.append, on_end=lambda: heard.append("the end")
    )
    holding = Holding("id", 5, [])
    capture.saved(holding)
    capture.ended()
    capture.ended()
    assert heard == [holding, "the end"]
