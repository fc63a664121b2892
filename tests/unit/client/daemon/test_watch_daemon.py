"""Watching through a daemon that is restarted, cut off and slow, by watchers that are many and slow."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from ckptd.client.checkpointer import Checkpointer
from ckptd.client.following import follow
from ckptd.errors import InvalidRequestError, UnavailableError
from tests import seams
from tests.fakes.clock import HandClock
from tests.fakes.waiting import eventually
from tests.unit.client.relay import Relay
from tests.unit.client.served import BOUND_S, Daemon

A = np.arange(6.0)
RUN = "runs/a"


def save(ckpt, step):
    return ckpt.save(step, {"a": A}).result(BOUND_S)


class Listener:
    """Takes what a watch yields, in a thread of its own, until the watch ends."""

    def __init__(self, watch):
        self.steps, self.error = [], None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._listen, args=(watch,))
        self._thread.start()

    def _listen(self, watch):
        try:
            for checkpoint in watch:
                with self._changed:
                    self.steps.append(checkpoint.step)
                    self._changed.notify_all()
        except Exception as error:
            self.error = error

    def wait_for(self, step):
        with self._changed:
            assert self._changed.wait_for(lambda: self.steps and self.steps[-1] == step, BOUND_S), self.steps

    def join(self):
        self._thread.join(BOUND_S)
        assert not self._thread.is_alive()


@pytest.fixture
def relay(daemon):
    relay = Relay(int(daemon.address.rpartition(":")[2]))
    yield relay
    relay.close()


def test_one_that_is_slow_finds_the_newest_and_not_all_that_was_missed(daemon):
    with Checkpointer(daemon.address, RUN, timeout_s=BOUND_S, max_to_keep=2) as ckpt:
        save(ckpt, 1)
        news = ckpt.watch()
        assert next(news).step == 1
        for step in range(2, 8):
            save(ckpt, step)
        source = ckpt.transport.watches.now[0]
        eventually(lambda: source.waiting is not None and source.waiting.step == 7)
        assert next(news).step == 7
        save(ckpt, 8)
        assert next(news).step == 8


def test_a_watch_may_come_before_the_run_and_ends_when_nothing_comes(daemon):
    with Checkpointer(daemon.address, RUN, timeout_s=BOUND_S) as ckpt:
        assert list(ckpt.watch(timeout_s=0.05)) == []
        news = ckpt.watch(timeout_s=BOUND_S)
        listener = Listener(news)
        eventually(lambda: ckpt.transport.watches.now)
        save(ckpt, 1)
        listener.wait_for(1)
        ended = ckpt.watch(timeout_s=3.0)
        assert [checkpoint.step for checkpoint in ended] == [1]
    listener.join()


def test_a_watch_whose_connection_breaks_again_and_again_misses_nothing_new_and_tells_nothing_twice(daemon, relay):
    with Checkpointer(daemon.address, RUN, timeout_s=BOUND_S) as ckpt:
        with Checkpointer(relay.address, RUN, timeout_s=BOUND_S) as reader:
            listener = Listener(reader.watch())
            for step in range(1, 6):
                save(ckpt, step)
                listener.wait_for(step)
                relay.cut()
            relay.is_refusing = True
            relay.cut()
            save(ckpt, 6)
            save(ckpt, 7)
            relay.is_refusing = False
            listener.wait_for(7)
        listener.join()
    assert listener.steps in ([1, 2, 3, 4, 5, 7], [1, 2, 3, 4, 5, 6, 7])
    assert listener.error is None


def test_the_newest_is_not_told_again_after_a_restart_also_when_another_life_wrote_it(daemon):
    with Checkpointer(daemon.address, RUN, timeout_s=BOUND_S) as ckpt:
        save(ckpt, 1)
        listener = Listener(ckpt.watch())
        listener.wait_for(1)
        for step in (2, 3):
            daemon.stop()
            daemon.start()
            save(ckpt, step)
            listener.wait_for(step)
    listener.join()
    assert listener.steps == [1, 2, 3]


def test_a_daemon_that_stays_away_is_an_error_that_names_it():
    with pytest.raises(UnavailableError, match=r"no daemon answers at 127\.0\.0\.1:1"):
        next(follow("127.0.0.1:1", RUN, patience_s=0.3))


def test_an_answer_that_no_repetition_changes_is_raised_at_once(daemon, monkeypatch):
    def refuse(*_, **__):
        raise InvalidRequestError("this run cannot be")

    seams.HUB_WATCH.put(monkeypatch, refuse)
    with pytest.raises(InvalidRequestError, match="cannot be"):
        next(follow(daemon.address, RUN, patience_s=BOUND_S))


def test_closing_the_checkpointer_ends_its_watches_and_leaves_no_thread(daemon):
    before = set(threading.enumerate())
    ckpt = Checkpointer(daemon.address, RUN, timeout_s=BOUND_S)
    listeners = [Listener(ckpt.watch()) for _ in range(3)]
    eventually(lambda: len(ckpt.transport.watches.now) == 3)
    ckpt.close()
    for listener in listeners:
        listener.join()
        assert (listener.steps, listener.error) == ([], None)
    eventually(lambda: not [t for t in set(threading.enumerate()) - before if t.name == "ckptd-watch"])
    with pytest.raises(InvalidRequestError, match="closed"):
        ckpt.watch()


def test_a_hundred_watchers_of_one_daemon_all_hear_in_order_and_end_at_the_newest(daemon):
    with Checkpointer(daemon.address, RUN, timeout_s=BOUND_S) as ckpt:
        with Checkpointer(daemon.address, RUN, timeout_s=BOUND_S) as reader:
            save(ckpt, 1)
            listeners = [Listener(reader.watch()) for _ in range(100)]
            for listener in listeners:
                listener.wait_for(1)
            for step in range(2, 7):
                save(ckpt, step)
            for listener in listeners:
                listener.wait_for(6)
        for listener in listeners:
            listener.join()
            assert listener.error is None
            assert listener.steps == sorted(set(listener.steps))


def test_a_watcher_hears_of_new_saves_after_the_clock_was_set_back(tmp_path):
    clock = HandClock()
    daemon = Daemon(tmp_path / "root", clock=clock)
    try:
        with Checkpointer(daemon.address, run=RUN, max_to_keep=None) as ckpt:
            save(ckpt, 1000)
            following = follow(daemon.address, run=RUN)
            assert next(following).step == 1000
            clock.jump(-3600.0)
            for step in (500, 600):
                save(ckpt, step)
                assert next(following).step == step
            following.close()
    finally:
        daemon.stop()
