"""The course of one save, over a transport that does as the test says."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from ckptd.client.capture.buffers import RoomPool
from ckptd.client.capture.snapshot import Snapshot
from ckptd.client.deadline import Deadline
from ckptd.client.saving.carrying_out import NUM_STREAMS, carry_out
from ckptd.client.saving.save_order import Turn
from ckptd.client.saving.transport import SaveRequest
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.identity import SaveRef
from ckptd.engine.layout import Assignment, Lane
from ckptd.errors import ConflictError, CorruptionError, NotFoundError, SessionAbortedError, UnavailableError

DONE = Checkpoint("/r/m-1", 1, 10, 1, 0.0)
REQUEST = SaveRequest(1, "request", None, False, 20.0)
SAVE = SaveRef("r", 1, 1, "id", 1, "plan", rank=1, incarnation="me")


class Scripted:
    """A transport whose methods do what the test says, and which notes what was asked."""

    chunk_bytes = 16

    def __init__(self, *, lanes=5, declare=None, send=None, outcome=DONE):
        self._lanes = lanes
        self._declare = declare
        self._send = send or (lambda source: None)
        self._outcome = outcome
        self.sent, self.aborted, self.at_once, self.most_at_once = [], [], 0, 0
        self.declared = 0
        self._lock = threading.Lock()

    def declare(self, request, manifest, deadline, turn, handover):
        self.declared += 1
        if self._declare is not None:
            return self._declare
        one = np.array([0], np.int64)
        lanes = [Lane(n, f"m.{n}", (), 8, one, 0 * one, one + 7) for n in range(self._lanes)]
        return Assignment(SAVE, "r/m-1", self._lanes, tuple(lanes))

    def send(self, save, source, deadline, stop):
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            self.sent.append(source.lane.shard)
        try:
            self._send(source)
        finally:
            with self._lock:
                self.at_once -= 1

    def outcome(self, save, deadline):
        if isinstance(self._outcome, list):
            self._outcome = self._outcome.pop(0) if len(self._outcome) == 1 else self._outcome
        if isinstance(self._outcome, list):
            raise self._outcome.pop(0)
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome

    def abort(self, save, reason):
        self.aborted.append(reason)


def carry(transport):
    turn = Turn()
    snapshot = Snapshot.take({"a": np.zeros(1)}, RoomPool())
    return carry_out(transport, REQUEST, snapshot, turn), turn


def failing(error):
    def send(source):
        raise error

    return send


def test_every_lane_is_sent_a_few_at_a_time_from_the_first_shard_on():
    meet = threading.Barrier(NUM_STREAMS)
    transport = Scripted(lanes=4, send=lambda source: meet.wait(60))
    done, turn = carry(transport)
    assert done is DONE
    Turn(turn).await_earlier(SAVE.epoch, Deadline(0.0))
    assert sorted(transport.sent) == [0, 1, 2, 3]
    assert sorted(transport.sent[:NUM_STREAMS]) == list(range(NUM_STREAMS))
    assert transport.most_at_once == NUM_STREAMS
    assert transport.aborted == []


def test_a_save_without_bytes_of_ours_has_nothing_to_send():
    transport = Scripted(lanes=0)
    assert carry(transport)[0] is DONE
    assert transport.sent == []


def test_a_save_that_is_there_already_is_done():
    transport = Scripted(declare=DONE)
    done, _ = carry(transport)
    assert done is DONE
    assert transport.sent == []


def test_the_first_error_stops_the_other_lanes_and_ends_the_save_for_all():
    error = CorruptionError("damaged on the way")
    transport = Scripted(lanes=50, send=failing(error), outcome=UnavailableError("it waits"))
    with pytest.raises(CorruptionError, match="damaged on the way"):
        carry(transport)
    assert len(transport.sent) <= NUM_STREAMS
    assert transport.aborted == ["rank 1 could not send its part: damaged on the way"]


def test_what_ended_the_save_is_told_rather_than_that_its_lanes_are_closed():
    reason = SessionAbortedError("rank 3 of 4 is lost")
    transport = Scripted(send=failing(ConflictError("the save is over: it takes no more bytes")), outcome=reason)
    with pytest.raises(SessionAbortedError, match="rank 3 of 4 is lost") as caught:
        carry(transport)
    assert isinstance(caught.value.__cause__, ConflictError)
    assert transport.aborted == []


def test_a_save_that_was_completed_all_the_same_is_a_success():
    transport = Scripted(send=failing(ConflictError("the save is over")))
    assert carry(transport)[0] is DONE


def test_an_error_of_declaring_is_raised_as_it_is():
    transport = Scripted()
    transport.declare = lambda *_: failing(ConflictError("already saved"))(None)
    with pytest.raises(ConflictError, match="already saved"):
        carry(transport)
    assert transport.aborted == []


def test_a_save_that_the_daemon_forgot_begins_again_from_the_snapshot():
    transport = Scripted(lanes=2, outcome=[NotFoundError("no trace"), NotFoundError("no trace"), DONE])
    assert carry(transport)[0] is DONE
    assert transport.declared == 3
    assert sorted(transport.sent) == [0, 0, 0, 1, 1, 1]
    assert transport.aborted == []


def test_a_lane_that_the_daemon_forgot_is_sent_again_too():
    answers = [NotFoundError("what save?")]

    def send(source):
        if answers:
            raise answers.pop()

    transport = Scripted(lanes=1, send=send, outcome=[NotFoundError("no trace"), DONE])
    assert carry(transport)[0] is DONE
    assert transport.declared == 2
