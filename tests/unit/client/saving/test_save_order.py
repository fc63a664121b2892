"""The order of saves: planned under the epoch that holds, or ended, before the next is declared."""

from __future__ import annotations

import threading

import pytest

from ckptd.client.deadline import Deadline
from ckptd.client.saving.save_order import Turn
from ckptd.errors import UnavailableError


def test_the_first_save_waits_for_nobody():
    Turn().await_earlier(1, Deadline(0.0))


def test_a_save_waits_until_the_one_before_is_planned_under_the_same_epoch():
    first = Turn()
    second = Turn(first)
    with pytest.raises(UnavailableError, match="the one before it has not been planned"):
        second.await_earlier(1, Deadline(0.0))
    first.planned(1)
    second.await_earlier(1, Deadline(0.0))
    with pytest.raises(UnavailableError):
        second.await_earlier(2, Deadline(0.0))  # the daemon was restarted: the first has to be planned again
    first.planned(2)
    second.await_earlier(2, Deadline(0.0))


def test_a_save_that_has_ended_holds_up_nobody():
    first = Turn()
    second = Turn(first)
    waiting = threading.Thread(target=second.await_earlier, args=(7, Deadline(20.0)))
    waiting.start()
    first.ended()
    waiting.join(60.0)
    assert not waiting.is_alive()
