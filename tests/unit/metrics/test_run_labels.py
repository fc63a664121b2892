from __future__ import annotations

from ckptd.metrics.run_labels import OTHER, RunLabels


class Series:
    """Which labels have series."""

    def __init__(self, most):
        self.there = []
        self.labels = RunLabels(self.there.remove, self.there.append, most)


def test_the_run_that_was_quiet_for_longest_gives_way_unless_it_is_in_use():
    series = Series(most=2)
    labels = series.labels
    assert [labels.label(run) for run in ("a", "b", "a", "c")] == ["a", "b", "a", "c"]
    assert series.there == [OTHER, "a", "c"]
    labels.use({"a"})
    assert labels.label("d") == "d"
    assert series.there == [OTHER, "a", "d"]


def test_where_all_are_in_use_the_others_have_one_label():
    series = Series(most=2)
    series.labels.use({"a", "b"})
    assert [series.labels.label(run) for run in ("a", "b", "c", "d", "a")] == ["a", "b", OTHER, OTHER, "a"]
    assert series.there == [OTHER, "a", "b"]
    assert (series.labels.has("a"), series.labels.has("c")) == (True, False)


def test_a_run_of_the_others_name_takes_nothing_from_them():
    series = Series(most=1)
    assert series.labels.label(OTHER) == OTHER
    assert series.there == [OTHER]
