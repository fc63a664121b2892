"""When a loop should save."""

from __future__ import annotations

import pytest

import ckptd
from ckptd.errors import InvalidRequestError


class Seconds:
    def __init__(self):
        self.at = 0.0

    def __call__(self):
        return self.at


def steps_saved(policy, first_step, last_step, seconds=None, seconds_per_step=0.0):
    """Train, and return the steps at which the policy wanted a save."""
    saved = [first_step] if policy.begin(first_step) else []
    for step in range(first_step + 1, last_step + 1):
        if seconds is not None:
            seconds.at += seconds_per_step
        if policy.after_step(step):
            saved.append(step)
    if policy.end(last_step):
        saved.append(last_step)
    return saved


def test_seconds_count_from_the_last_save():
    seconds = Seconds()
    policy = ckptd.SavePolicy(now=seconds)
    assert policy.every_s == 600
    assert steps_saved(policy, 0, 25, seconds, 97.0) == [0, 7, 14, 21, 25]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (ckptd.SavePolicy(every_steps=4), [10, 14, 18, 20]),
        (ckptd.SavePolicy(every_steps=5), [10, 15, 20]),
        (ckptd.SavePolicy(every_steps=4, first=False), [14, 18, 20]),
        (ckptd.SavePolicy(every_steps=4, last=False), [10, 14, 18]),
        (ckptd.SavePolicy(every_s=None), [10, 20]),
        (ckptd.SavePolicy(every_s=None, first=False, last=False), []),
    ],
    ids=repr,
)
def test_first_periodic_and_last(policy, expected):
    assert steps_saved(policy, 10, 20) == expected


def test_steps_that_are_skipped_do_not_move_the_rhythm_and_no_step_is_saved_twice():
    policy = ckptd.SavePolicy(every_steps=10)
    assert policy.after_step(3)  # without `begin` this is the first
    assert not policy.after_step(12)
    assert policy.after_step(27)
    assert not policy.after_step(27)
    assert not policy.after_step(36)
    assert policy.after_step(37)
    assert not policy.end(37)
    assert policy.end(38)
    assert policy.end(38)


def test_training_that_ends_where_it_began_saves_once():
    assert steps_saved(ckptd.SavePolicy(every_steps=5), 7, 7) == [7]
    assert steps_saved(ckptd.SavePolicy(every_steps=5, first=False), 7, 7) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"every_s": 600, "every_steps": 100},
        {"every_s": 0},
        {"every_s": float("nan")},
        {"every_steps": 0},
        {"every_steps": -3},
    ],
    ids=str,
)
def test_a_policy_that_cannot_be_meant_is_refused(wrong):
    with pytest.raises(InvalidRequestError):
        ckptd.SavePolicy(**wrong)
