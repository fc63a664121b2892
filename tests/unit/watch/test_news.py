from __future__ import annotations

import pytest

from ckptd.engine.checkpoint import Checkpoint
from ckptd.watch.news import News


def checkpoint(step, saved_at, save_id=None):
    return Checkpoint(f"/r/m-{step}", step, 1, 1, saved_at, save_id=f"id-{step}" if save_id is None else save_id)


STORIES = {
    # what is heard, and which of it is news
    "each newer one": ([(1, 10.0), (2, 20.0), (5, 30.0)], [1, 2, 5]),
    "the same again after a break": ([(1, 10.0), (1, 10.0), (2, 20.0), (2, 20.0)], [1, 2]),
    "an older one after a deletion": ([(1, 10.0), (3, 30.0), (2, 20.0), (4, 40.0)], [1, 3, 4]),
    "training resumed from an earlier step": ([(9, 10.0), (5, 20.0)], [9, 5]),
    "a clock that was set back": ([(1, 100.0), (2, 50.0)], [1, 2]),
}


@pytest.mark.parametrize("story", STORIES)
def test_watching_only_goes_forward_and_never_misses_the_newest(story):
    heard, told = STORIES[story]
    news = News()
    assert [step for step, at in heard if news.accept(checkpoint(step, at))] == told


def test_an_overwritten_step_accept():
    news = News()
    assert news.accept(checkpoint(1, 10.0, "first"))
    assert news.last_save_id == "first"
    assert news.accept(checkpoint(1, 11.0, "second"))
    assert news.last_save_id == "second"


def test_checkpoints_that_others_wrote_have_no_id_and_are_told_all_the_same():
    news = News()
    assert news.accept(checkpoint(1, 10.0, ""))
    assert not news.accept(checkpoint(1, 10.0, ""))
    assert news.accept(checkpoint(2, 10.0, ""))
