"""Joining a run, over a stub that answers as the test says."""

from __future__ import annotations

import threading

import pytest

from ckptd.client.daemon.join_call import JoinCall
from ckptd.client.deadline import Deadline
from ckptd.engine.identity import Member, RunOptions
from ckptd.errors import ConflictError, EvictedError, NotPermittedError, UnavailableError
from ckptd.wire import versions
from ckptd.wire.v1 import save_pb2
from tests import seams
from tests.fakes.waiting import eventually

BOUND_S = 60.0


class Stub:
    """Answers `Join` with one item of a script per call: an error, or the epoch of a welcome that holds."""

    def __init__(self, *script):
        self._script = list(script)
        self.left = []

    def Join(self, request, wait_for_ready):  # noqa: N802 - the wire's name
        answer = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        if isinstance(answer, Exception):
            raise answer
        return self.Call(self, answer)

    class Call:
        def __init__(self, stub, epoch):
            self._stub, self._epoch, self._broken = stub, epoch, threading.Event()
            stub.call = self

        def __iter__(self):
            peer = versions.this_peer("daemon")
            yield save_pb2.JoinEvent(welcome=save_pb2.Welcome(peer=peer, epoch=self._epoch, lease_s=0.2))
            self._broken.wait(BOUND_S)

        def cancel(self):
            self._broken.set()

    def Leave(self, request, timeout):  # noqa: N802
        self.left.append((request.rank, request.epoch))


def member_of(stub):
    peer = versions.this_peer("me")
    return JoinCall(stub, "grpc://there:1", "r", Member(2, 4, "me"), RunOptions(), peer)


def test_nothing_happens_before_the_first_welcome_and_leaving_is_told():
    stub = Stub(7)
    joined = member_of(stub)
    joined.close()
    assert stub.left == []
    joined = member_of(stub)
    assert joined.welcome(Deadline(BOUND_S)).epoch == 7
    joined.close()
    assert stub.left == [(2, 7)]
    with pytest.raises(UnavailableError, match="closed"):
        joined.welcome(Deadline(BOUND_S))


def test_a_daemon_that_is_away_is_asked_again():
    joined = member_of(Stub(UnavailableError("away"), UnavailableError("away"), 3))
    assert joined.welcome(Deadline(BOUND_S)).epoch == 3
    joined.close()
    joined = member_of(Stub(UnavailableError("still away")))
    with pytest.raises(UnavailableError, match="still away"):
        joined.welcome(Deadline(3.0))  # a busy machine needs more than a moment to ask at all
    joined.close()


def test_a_broken_call_is_made_again_and_the_newer_epoch_counts():
    stub = Stub(3, 4)
    joined = member_of(stub)
    assert joined.welcome(Deadline(BOUND_S)).epoch == 3
    assert not joined.is_newer_than(3, 0.01)
    stub.call.cancel()
    assert joined.is_newer_than(3, BOUND_S)
    assert joined.welcome(Deadline(BOUND_S)).epoch == 4
    joined.close()


def test_a_place_that_is_taken_is_waited_for_and_then_given_up_for_good(monkeypatch):
    joined = member_of(Stub(ConflictError("taken"), ConflictError("taken"), 5))
    assert joined.welcome(Deadline(BOUND_S)).epoch == 5
    joined.close()
    seams.FIRST_CONFLICT_WAIT_S.put(monkeypatch, 0.1)
    joined = member_of(Stub(ConflictError("rank 2 is held by another")))
    for _ in range(2):
        with pytest.raises(ConflictError, match="held by another"):
            joined.welcome(Deadline(BOUND_S))
    joined.close()


def test_a_place_whose_process_is_gone_is_waited_for_until_it_is_free(monkeypatch, caplog):
    def gone(free_in_s):
        error = ConflictError("rank 2 is held by another")
        error.holder, error.free_in_s = "rank 2 (pid 7 on b)", free_in_s
        return error

    seams.FIRST_CONFLICT_WAIT_S.put(monkeypatch, 0.0)  # alone, it would have been given up at once
    joined = member_of(Stub(gone(0.3), gone(0.1), gone(0.0), 5))
    assert joined.welcome(Deadline(BOUND_S)).epoch == 5
    joined.close()


def test_a_process_that_was_evicted_does_not_try_again():
    stub = Stub(3, EvictedError("evicted by token:ops"), 4)
    joined = member_of(stub)
    assert joined.welcome(Deadline(BOUND_S)).epoch == 3
    stub.call.cancel()
    eventually(lambda: joined.is_refused, "the refusal")
    for _ in range(2):
        with pytest.raises(EvictedError, match="by token:ops"):
            joined.welcome(Deadline(BOUND_S))
    joined.close()


def test_what_an_operator_can_put_right_is_tried_again_with_the_next_save():
    joined = member_of(Stub(NotPermittedError("the token is wrong"), 6))
    with pytest.raises(NotPermittedError, match="the token is wrong"):
        joined.welcome(Deadline(BOUND_S))
    assert joined.welcome(Deadline(BOUND_S)).epoch == 6
    joined.close()


def test_a_daemon_of_another_version_is_refused(monkeypatch):
    class Newer(Stub.Call):
        def __iter__(self):
            for event in super().__iter__():
                event.welcome.peer.version = "9.0.0"
                yield event

    seams.FIRST_CONFLICT_WAIT_S.put(monkeypatch, 0.0)
    stub = Stub(1)
    stub.Call = Newer
    joined = member_of(stub)
    with pytest.raises(ConflictError, match=r"9\.0\.0"):
        joined.welcome(Deadline(BOUND_S))
    joined.close()
