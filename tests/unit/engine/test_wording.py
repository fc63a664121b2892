"""Words in errors and logs: the numbers that people read."""

from __future__ import annotations

import pytest

from ckptd.engine.wording import describe_bytes, describe_ranks, describe_seconds


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (12_340_000, "12.3 MB"),
        (999_960, "1.0 MB"),
        (5 * 10**15, "5000.0 TB"),
    ],
)
def test_sizes_are_in_decimal_units(size, text):
    assert describe_bytes(size) == text


@pytest.mark.parametrize(
    ("ranks", "text"),
    [
        ([3], "rank 3 of 9"),
        ([0, 1, 2], "ranks 0-2 of 9"),
        ([7, 0, 1, 2], "ranks 0-2 and 7 of 9"),
        ([0, 2, 4], "ranks 0, 2 and 4 of 9"),
    ],
)
def test_ranks_are_ranges(ranks, text):
    assert describe_ranks(ranks, 9) == text


@pytest.mark.parametrize(("seconds", "text"), [(30.0, "30 s"), (0.25, "0.25 s"), (5.98, "5.98 s")])
def test_durations_are_short(seconds, text):
    assert describe_seconds(seconds) == text
