"""Calls of `save` are counted for each step and name."""

from __future__ import annotations

from ckptd.client.saving.call_count import CallCount


def test_each_step_of_each_name_has_its_own_count() -> None:
    calls = CallCount()
    assert [calls.next("m", 1), calls.next("m", 2), calls.next("n", 1), calls.next("m", 1)] == [1, 1, 1, 2]
    for step in range(1000):
        assert calls.next("other", step) == 1
