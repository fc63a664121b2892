from __future__ import annotations

import contextlib
import sys
import threading

import pytest

from ckptd.client.saving.completion import Completion
from ckptd.client.saving.pending import PendingSave
from ckptd.engine.checkpoint import Checkpoint
from ckptd.errors import SessionAbortedError, UnavailableError
from tests.starts import prepared

DONE = Checkpoint("/r/m-1", 1, 10, 1, 0.0)


def test_the_result_arrives_for_all_who_wait():
    completion = Completion(1)
    pending = PendingSave(completion)
    assert not pending.done()
    results = []
    waiters = [threading.Thread(target=lambda: results.append(pending.result(60))) for _ in range(3)]
    for waiter in waiters:
        waiter.start()
    completion.finish(DONE)
    for waiter in waiters:
        waiter.join(60)
    assert results == [DONE] * 3
    assert pending.checkpoint is DONE
    assert pending.done()
    assert pending.exception() is None


def test_waiting_is_bounded_and_says_what_for():
    with pytest.raises(UnavailableError, match=r"the save of step 7 is still under way after 0\.01 s") as caught:
        PendingSave(Completion(7)).result(0.01)
    assert caught.value.retryable


def test_an_error_counts_as_seen_once_somebody_asked():
    completion = Completion(1)
    pending = PendingSave(completion)
    error = SessionAbortedError("rank 3 is lost")
    completion.fail(error)
    assert pending.exception() is error
    with pytest.raises(SessionAbortedError, match="rank 3"):
        pending.result()
    assert completion.take_unseen_error() is None


def test_looking_at_what_was_saved_asks_for_no_error():
    ends = Completion(1), Completion(2)
    well, badly = map(PendingSave, ends)
    assert well.checkpoint is None
    ends[0].finish(DONE)
    error = SessionAbortedError("rank 3 is lost")
    ends[1].fail(error)
    assert (well.checkpoint, badly.checkpoint) == (DONE, None)
    assert ends[1].take_unseen_error() is error


def test_an_error_nobody_asked_for_is_handed_over_once():
    completion = Completion(1)
    pending = PendingSave(completion)
    assert completion.take_unseen_error() is None
    error = SessionAbortedError("rank 3 is lost")
    completion.fail(error)
    assert pending.wait(0)
    assert pending.checkpoint is None  # a look that is none
    assert completion.take_unseen_error() is error
    assert completion.take_unseen_error() is None


def test_callbacks_are_called_once_before_and_after_the_end():
    completion, heard = Completion(1), []
    pending = PendingSave(completion)
    pending.add_done_callback(lambda one: heard.append(("early", one)))
    completion.finish(DONE)
    pending.add_done_callback(lambda one: heard.append(("late", one)))
    assert heard == [("early", pending), ("late", pending)]


FORKING = """
import os

from ckptd.client.saving.completion import Completion
from ckptd.client.saving.pending import PendingSave
from ckptd.errors import UnavailableError

completion = Completion(7)
pending = PendingSave(completion)
child = os.fork()
if not child:
    code = 1
    try:
        assert not pending.wait()
        assert not completion.wait_until_over()
        try:
            pending.result()
        except UnavailableError as error:
            assert "the save of step 7 was begun before this process was forked" in str(error)
            code = 0
    finally:
        os._exit(code)
assert os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_child_does_not_wait_for_its_parents_save():
    prepared.run([sys.executable, "-c", FORKING], check=True, timeout=120)


def test_ctrl_c_as_its_lock_is_taken_keeps_no_other_thread_out(monkeypatch):
    completion, enter, found = Completion(7), threading.Condition.__enter__, []

    def interrupted(condition):
        enter(condition)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(threading.Condition, "__enter__", interrupted)
        completion.done()
    other = threading.Thread(target=lambda: found.append(completion.owes_nothing), daemon=True)
    other.start()
    other.join(60)
    assert found == [False]
