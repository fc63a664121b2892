"""Hints are scripted here: each wait carries out the next line of a story, and no time passes but the story's."""

from __future__ import annotations

import shutil
import threading

import pytest

from ckptd.errors import CorruptionError, NotPermittedError, UnavailableError
from ckptd.storage.locations import open_store
from ckptd.watch.follower import PATIENCE_S, Follower
from tests import seams
from tests.fakes.directory import name_latest, publish, put, put_index, put_shards


class Story:
    """Hints that let the world go on by one action at each wait; then nothing happens any more."""

    def __init__(self, *actions):
        self.actions = list(actions)
        self.now_s = 0.0
        self.closed = False
        self.armed = 0

    def arm(self):
        self.armed += 1

    def wait(self, timeout_s):
        if self.actions:
            self.actions.pop(0)()
        else:
            assert timeout_s is not None, "it would wait for ever"
            self.now_s += timeout_s

    def close(self):
        self.closed = True


def follow(root, *actions):
    story = Story(*actions)
    return Follower(open_store(str(root)), "run", hints=story, now=lambda: story.now_s), story


def steps(follower, timeout_s=1.0):
    found = []
    while (checkpoint := follower.next(timeout_s)) is not None:
        found.append(checkpoint.step)
    return found


def test_each_newer_one_is_told_and_hints_without_news_are_not(tmp_path):
    run = tmp_path / "run"
    follower, story = follow(
        tmp_path,
        lambda: None,
        lambda: publish(run, 1, saved_at=10),
        lambda: put_shards(run, 2),
        lambda: put_index(run, 2, saved_at=20),
        lambda: name_latest(run, 2),
        lambda: name_latest(run, 2),
        lambda: publish(run, 3, saved_at=30),
    )
    assert steps(follower) == [1, 2, 3]
    assert story.armed > 7


def test_one_that_is_slow_is_told_the_newest_only(tmp_path):
    follower, _ = follow(tmp_path)
    for step in range(1, 6):
        publish(tmp_path / "run", step, saved_at=step)
    assert steps(follower) == [5]


def test_an_older_one_after_a_deletion_is_no_news_and_a_new_training_is(tmp_path):
    run = tmp_path / "run"
    publish(run, 1, saved_at=10)
    publish(run, 2, saved_at=20)
    follower, _ = follow(
        tmp_path,
        lambda: name_latest(run, 1),  # 2 was deleted, by a person
        lambda: shutil.rmtree(run),
        lambda: publish(run, 1, saved_at=40),
    )
    assert steps(follower) == [2, 1]


def test_a_state_file_that_is_half_written_is_waited_for(tmp_path):
    run = tmp_path / "run"
    publish(run, 1)
    follower, _ = follow(
        tmp_path,
        lambda: put(run / "checkpoint", b""),
        lambda: put(run / "checkpoint", b'model_checkpoint_path: "m-'),
        lambda: publish(run, 2),
    )
    assert steps(follower, timeout_s=PATIENCE_S / 2) == [1, 2]


def test_a_state_file_that_stays_broken_is_an_error(tmp_path):
    put(tmp_path / "run" / "checkpoint", b"nonsense {")
    follower, story = follow(tmp_path)
    with pytest.raises(CorruptionError):
        follower.next()
    assert PATIENCE_S <= story.now_s < PATIENCE_S + 1


def test_a_store_that_stays_away_is_an_error_and_a_short_absence_is_not(tmp_path, monkeypatch):
    away = UnavailableError("the server does not answer")
    answers = [away, away, None]

    def look(self):
        answer = answers.pop(0) if answers else away
        if answer is not None:
            raise answer

    seams.LOOK.put(monkeypatch, look)
    follower, story = follow(tmp_path, *[lambda: None] * 3)
    with pytest.raises(UnavailableError, match="does not answer"):
        follower.next()
    assert not answers
    assert story.now_s >= PATIENCE_S


def test_what_may_not_be_read_is_said_at_once(tmp_path, monkeypatch):
    def look(self):
        raise NotPermittedError("no")

    seams.LOOK.put(monkeypatch, look)
    follower, story = follow(tmp_path)
    with pytest.raises(NotPermittedError):
        follower.next()
    assert story.now_s == 0


def test_nothing_within_the_timeout_gives_none_and_what_is_there_needs_no_time(tmp_path):
    follower, story = follow(tmp_path)
    assert follower.next(5.0) is None
    assert story.now_s == 5.0
    publish(tmp_path / "run", 1)
    assert follower.next(0).step == 1
    assert follower.next(0) is None


@pytest.mark.parametrize("where", ["directory", "memory", "polled"])
def test_closing_ends_a_wait_from_another_thread(tmp_path, where):
    url = "memory://closing" if where == "memory" else str(tmp_path)
    follower = Follower(open_store(url), "run", poll_s=100.0 if where == "polled" else None)
    told = []
    thread = threading.Thread(target=lambda: told.append(follower.next()))
    thread.start()
    follower.close()
    follower.close()
    thread.join(60)
    assert not thread.is_alive()
    assert told == [None]
    assert follower.next() is None
