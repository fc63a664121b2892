from __future__ import annotations

import math

import pytest

from ckptd.client.saving.stall import COPYING, DECLARING, PREPARING, Stall
from ckptd.wire import convert
from ckptd.wire.v1 import save_pb2


def test_its_parts_are_known_once_the_call_has_returned_and_not_before():
    stall = Stall()
    assert stall.seconds(0.0) is None
    for part in (PREPARING, DECLARING, COPYING, DECLARING):
        stall.goes_on_with(part)
    assert stall.seconds(0.0) is None
    stall.ended()
    seconds = stall.seconds(0.0)
    assert list(seconds) == ["waiting", "preparing", "copying", "declaring"]
    assert all(each >= 0 for each in seconds.values())
    assert sum(seconds.values()) > 0


def test_nothing_counts_after_its_end():
    stall = Stall()
    stall.ended()
    before = stall.seconds(0.0)
    stall.ended()
    assert stall.seconds(0.0) == before


def test_it_goes_over_the_wire_and_what_is_no_time_counts_as_none():
    seconds = {"waiting": 1.5, "preparing": 0.25, "copying": 2.0, "declaring": 0.0}
    assert convert.stall_from_wire(convert.stall_to_wire(seconds)) == seconds


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, -1.0])
def test_a_hostile_time_moves_nothing(wrong):
    read = convert.stall_from_wire(save_pb2.Stall(waiting_s=wrong, copying_s=1e300))
    assert read["waiting"] == 0.0
    assert math.isfinite(read["copying"])
