"""Bytes a second: what is more waits, whatever way it takes; others do not."""

from __future__ import annotations

import time

import pytest

from ckptd.access import callers, policy
from ckptd.errors import InvalidRequestError
from ckptd.service.gate import Access, Gate
from ckptd.service.pacing import Pacing

MB = 1_048_576
A, B = callers.of_token("a"), callers.of_token("b")


class Paced:
    """A pacing whose time stands still, by these rows of limits."""

    def __init__(self, *limits):
        self.time_s = 1000.0
        self.gate = Gate(Access(policy=policy.parse({"limit": list(limits)})))
        self.pacing = Pacing(self.gate, now=lambda: self.time_s)

    def moved(self, caller, size, host="ipv4:10.0.0.1"):
        return round(self.pacing.moved(caller, host, size), 3)


def test_a_second_may_move_at_once_and_what_is_more_waits_its_turn():
    paced = Paced({"to": "token:a", "bytes_per_s": 10 * MB})
    assert [paced.moved(A, 5 * MB) for _ in range(4)] == [0.0, 0.0, 0.5, 1.0]
    assert paced.moved(B, 100 * MB) == 0.0
    paced.time_s += 1.5
    assert paced.moved(A, 5 * MB) == 0.0
    assert paced.moved(A, 5 * MB) == 0.5


def test_each_host_of_an_identity_has_a_rate_of_its_own_and_the_slower_counts():
    paced = Paced({"to": "*", "bytes_per_s_per_host": 2 * MB}, {"to": "*", "bytes_per_s": 3 * MB})
    assert paced.moved(A, 4 * MB) == 1.0
    assert paced.moved(A, 2 * MB, host="ipv4:10.0.0.2") == 1.0  # in all six in a second that may have three
    assert paced.moved(B, 4 * MB) == 1.0


def test_without_a_limit_nothing_is_counted_and_another_policy_begins_anew():
    paced = Paced()
    assert paced.moved(A, 1 << 50) == 0.0
    paced.gate.access = Access(policy=policy.parse({"limit": [{"to": "*", "bytes_per_s": MB}]}))
    assert paced.moved(A, 100 * MB) == 99.0
    paced.gate.access = Access(policy=policy.parse({"limit": [{"to": "*", "bytes_per_s": 2 * MB}]}))
    assert paced.moved(A, 2 * MB) == 0.0


def test_how_fast_bytes_move_is_known_by_the_second():
    paced = Paced({"to": "*", "bytes_per_s": 10 * MB, "bytes_per_s_per_host": 20 * MB})
    paced.moved(A, 3 * MB)
    paced.moved(A, 1 * MB, host="unix")
    paced.time_s += 1
    assert [(rate.whose, rate.host, rate.used, rate.most) for rate in paced.pacing.rates()] == [
        ("token:a", "", 4 * MB, 10 * MB),
        ("token:a", "ipv4:10.0.0.1", 3 * MB, 20 * MB),
        ("token:a", "unix", 1 * MB, 20 * MB),
    ]
    paced.time_s += 1
    assert {rate.used for rate in paced.pacing.rates()} == {0}


def test_a_delay_is_logged_once_with_its_cause(caplog):
    caplog.set_level("INFO", "ckptd.service")
    paced = Paced({"to": "*", "bytes_per_s": MB})
    for _ in range(3):
        paced.moved(callers.of_token(f"slow-{time.time_ns()}"), 1)
    paced.moved(slow := callers.of_token(f"slow-{time.time_ns()}"), 3 * MB)
    paced.moved(slow, 3 * MB)
    [line] = [record.getMessage() for record in caplog.records]
    assert line == f"{slow} at ipv4:10.0.0.1 waits 2.0 s: the daemon's policy allows it 1.0 MB a second"


def test_a_rate_at_which_no_save_would_end_is_refused():
    with pytest.raises(InvalidRequestError, match=r"limit 1: bytes_per_s is 1048576 or more"):
        policy.parse({"limit": [{"to": "*", "bytes_per_s": 5}]})
