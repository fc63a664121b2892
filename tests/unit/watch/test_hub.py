from __future__ import annotations

import threading

import pytest

from ckptd.errors import UnavailableError
from ckptd.watch.hub import Hub
from tests.fakes.coordinator import FakeCoordinator, checkpoint

RUN = "runs/a"


@pytest.fixture
def engine():
    return FakeCoordinator()


@pytest.fixture
def hub(engine):
    return Hub(engine.subscribe, engine.latest)


def test_the_newest_is_there_at_once(engine, hub):
    engine.publish(RUN, checkpoint(1))
    woken = []
    watcher = hub.watch(RUN, lambda: woken.append(1))
    assert woken == [1]
    assert watcher.take() == checkpoint(1)
    assert watcher.take() is None


def test_a_slow_watcher_gets_only_the_newest(engine, hub):
    watcher = hub.watch(RUN, lambda: None)
    for step in range(1000):
        engine.publish(RUN, checkpoint(step))
    assert watcher.take() == checkpoint(999)
    assert watcher.take() is None


def test_what_is_published_while_looking_is_not_missed_nor_told_backward(engine):
    def latest(run):
        before = checkpoint(1)
        engine.publish(run, checkpoint(2))  # after the look, before its answer is used
        return before

    watcher = Hub(engine.subscribe, latest).watch(RUN, lambda: None)
    assert watcher.take() == checkpoint(2)
    assert watcher.take() is None


def test_the_same_checkpoint_is_told_once(engine, hub):
    engine.publish(RUN, checkpoint(1))
    watcher = hub.watch(RUN, lambda: None)
    engine.publish(RUN, checkpoint(1))
    assert watcher.take() == checkpoint(1)
    engine.publish(RUN, checkpoint(1))
    assert watcher.take() is None
    engine.publish(RUN, checkpoint(1, save_id="overwritten"))
    assert watcher.take() is not None


def test_a_known_save_is_not_told_again(engine, hub):
    engine.publish(RUN, checkpoint(1))
    watcher = hub.watch(RUN, lambda: None, after_save_id="s1")
    assert watcher.take() is None
    engine.publish(RUN, checkpoint(2))
    assert watcher.take() == checkpoint(2)


def test_a_closed_watcher_hears_nothing_and_leaves_nothing(engine, hub):
    watcher = hub.watch(RUN, lambda: None)
    watcher.close()
    watcher.close()
    assert (hub.num_watchers, engine.listeners[RUN]) == (0, [])


def test_a_look_that_fails_leaves_nothing(engine):
    def latest(run):
        raise UnavailableError("the disk is slow")

    hub = Hub(engine.subscribe, latest)
    with pytest.raises(UnavailableError):
        hub.watch(RUN, lambda: None)
    assert (hub.num_watchers, engine.listeners[RUN]) == (0, [])


def test_many_watchers_of_a_racing_publisher_go_strictly_forward_and_end_at_the_newest(engine, hub):
    last = 300
    told = [[] for _ in range(8)]

    def follow(steps):
        woken = threading.Event()
        watcher = hub.watch(RUN, woken.set)
        while not steps or steps[-1] != last:
            assert woken.wait(60)
            woken.clear()
            while (found := watcher.take()) is not None:
                steps.append(found.step)

    threads = [threading.Thread(target=follow, args=(steps,)) for steps in told]
    for thread in threads[:4]:
        thread.start()
    for step in range(last + 1):
        engine.publish(RUN, checkpoint(step))
        if step == last // 2:
            for thread in threads[4:]:
                thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    for steps in told:
        assert steps == sorted(set(steps))
        assert steps[-1] == last
