from __future__ import annotations

import threading

import pytest

from ckptd.client.pending import PendingSave
from ckptd.engine.checkpoint import Checkpoint
from ckptd.errors import CkptdError, SessionAbortedError, UnavailableError
from ckptd.jax.background import BackgroundSave

DONE = Checkpoint("/r/m-1", 1, 10, 1, 0.0)


def test_it_ends_when_what_was_begun_ends():
    pending, may_copy = PendingSave(1), threading.Event()

    def begin():
        may_copy.wait(30)
        return pending

    save = BackgroundSave(1, begin)
    assert not save.done()
    may_copy.set()
    save.wait_for_copy()
    assert not save.done()
    assert save.checkpoint is None
    pending.finish(DONE)
    save.wait()
    assert save.done()
    assert save.checkpoint is DONE
    save.raise_error()


def test_an_error_is_raised_once_wherever_it_came_from():
    failed = PendingSave(1)
    failed.fail(SessionAbortedError("rank 3 is lost"))

    def refused():
        raise UnavailableError("no room")

    def broken():
        raise ValueError("oops")

    for begin, kind, said in [
        (lambda: failed, SessionAbortedError, "rank 3"),
        (refused, UnavailableError, "no room"),
        (broken, CkptdError, "a bug in ckptd ended the save of step 1: ValueError"),
    ]:
        save = BackgroundSave(1, begin)
        save.wait()
        assert save.done()
        with pytest.raises(kind, match=said):
            save.raise_error()
        save.raise_error()
