"""Threads for blocking calls: what waits for one is bounded."""

from __future__ import annotations

import threading

import pytest

from ckptd.engine.priority import Priority
from ckptd.engine.refusals import NotNowError
from ckptd.service.pools import Pools
from tests import seams

BOUND_S = 60.0


def test_calls_about_a_run_that_hangs_are_refused_when_many_wait_and_others_are_not(monkeypatch):
    seams.MOST_WAITING_CALLS.put(monkeypatch, 3)
    pools, go_on = Pools(control_threads=2, data_threads=1, priority=Priority()), threading.Event()
    try:
        running = pools.submit("a", go_on.wait, BOUND_S)
        waiting = [pools.submit("a", lambda: None) for _ in range(3)]
        with pytest.raises(NotNowError, match="3 calls about run 'a' wait"):
            pools.submit("a", lambda: None)
        assert pools.submit("b", lambda: "b").result(BOUND_S) == "b"
        left = pools.start("a", lambda: "left")  # that a member left has to be told in any case
        go_on.set()
        assert left.result(BOUND_S) == "left"
        assert all(each.result(BOUND_S) is None for each in waiting)
        assert running.result(BOUND_S)
    finally:
        go_on.set()
        pools.close()
