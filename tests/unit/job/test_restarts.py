"""Daemons that end by themselves: started again, unless another has their place, or they end again and again."""

from __future__ import annotations

import logging
import signal

from ckptd.job.daemons import JobDaemon
from ckptd.job.restarts import Restarts


def agent(tmp_path, *, has_served):
    (tmp_path / "agent.log").write_text("why\n")
    return JobDaemon("agent", (), tmp_path / "ready", tmp_path / "agent.log", has_served=has_served)


def test_one_that_another_has_replaced_is_left_and_its_log_says_why(tmp_path, caplog):
    clock = [100.0]
    restarts, replaced = Restarts(lambda: clock[0]), agent(tmp_path, has_served=True)
    assert not restarts.is_due(replaced, 4)
    clock[0] += 1000.0
    assert not restarts.is_due(replaced, 4)
    assert [each.getMessage() for each in caplog.records] == [
        "the agent ended, as another has its place; it is not started again\n  why"
    ]


def test_one_that_ends_before_it_serves_is_tried_again(tmp_path):
    assert Restarts().is_due(agent(tmp_path, has_served=False), 4)  # what it follows may not have ended yet


def test_pauses_grow_and_at_last_it_is_given_up(tmp_path, caplog):
    clock = [100.0]
    restarts, ending = Restarts(lambda: clock[0]), agent(tmp_path, has_served=True)
    with caplog.at_level(logging.WARNING):
        for number in range(20):
            assert restarts.is_due(ending, -signal.SIGKILL)
            clock[0] += number + 0.5
            assert not restarts.is_due(ending, -signal.SIGKILL)
            clock[0] += 1.0
        clock[0] += 100.0
        assert not restarts.is_due(ending, -signal.SIGKILL)
    assert caplog.records[0].getMessage() == "the agent ended, by signal SIGKILL; it is started again\n  why"
    assert caplog.records[-1].getMessage() == "the agent has ended 21 times; it is not started again"
