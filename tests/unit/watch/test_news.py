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


def test_what_is_published_later_is_news_whatever_the_clock_says():
    """Set back by an hour, and training rolled back as well."""
    news = News()
    assert news.accept(checkpoint(1000, 3600.0))
    assert [news.accept(checkpoint(step, step / 10, f"again-{step}"), is_next=True) for step in (500, 600)] == [
        True
    ] * 2


def test_what_was_not_listed_before_is_news_whatever_the_clock_says():
    news = News()
    assert news.accept(checkpoint(1000, 3600.0), listed=["m-900", "m-1000"])
    assert news.accept(checkpoint(500, 50.0, "again"), listed=["m-900", "m-1000", "m-500"])
    assert news.accept(checkpoint(900, 90.0, "again-900"), listed=["m-1000", "m-500", "m-900"])  # saved once more


def test_what_was_listed_before_is_not_news_when_the_newest_is_deleted():
    news = News()
    assert news.accept(checkpoint(1000, 3600.0), listed=["m-900", "m-1000"])
    assert not news.accept(checkpoint(900, 90.0), listed=["m-900"])
    assert news.accept(checkpoint(950, 80.0), listed=["m-900", "m-950"])
