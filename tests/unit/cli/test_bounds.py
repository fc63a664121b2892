"""What bounds a measured time is the limit that accounts for most of it, if one does for half."""

from __future__ import annotations

import pytest

from ckptd.cli.bounds import Bound, bound_of, processor_s

BOUNDS = [
    (1.0, {"the disk": 0.9, "memory": 0.1}, Bound("the disk", 0.9)),
    (1.0, {"the disk": 0.3, "processor": 0.8}, Bound("processor", 0.8)),
    (1.0, {"the disk": 0.5}, Bound("the disk", 0.5)),
    (1.0, {"the disk": 0.49, "memory": 0.4}, None),  # neither explains it, and they may overlap: no sum of them does
    (2.0, {"new memory": -1.0}, None),  # a first save that was faster than the next ones
    (1.0, {}, None),
    (0.0, {"the disk": 1.0}, None),
]


@pytest.mark.parametrize(("took_s", "parts", "bound"), BOUNDS)
def test_the_longest_part_is_the_bound_if_it_is_half_of_the_time(took_s, parts, bound):
    assert bound_of(took_s, parts) == bound


def test_a_bound_is_shown_with_its_share_which_is_at_most_all():
    assert str(Bound("the disk", 0.925)) == "the disk (92%)"
    assert str(Bound("memory", 1.3)) == "memory (100%)"


def test_processors_are_shared_and_a_process_has_one_at_a_time():
    assert processor_s(1.0, 1.0, num_cores=2) == 1.0
    assert processor_s(1.0, 1.0, num_cores=1) == 2.0
    assert processor_s(3.0, 0.5, num_cores=16) == 3.0
