"""Many hosts together send no more requests to a bucket than it takes; a few are held up by nothing."""

from __future__ import annotations

import threading
from itertools import pairwise

import pytest

from ckptd.storage.pace import ALL_REQUESTS_PER_S, Pace, UploadLimits, limits_of_each
from tests.fakes.waiting import eventually

WAIT_S = 60.0


class Clock:
    """Stands still, but for those that sleep."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def now(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def turns(num_hosts: int, host: int, count: int) -> list[float]:
    """When one host makes its requests, if it has as many as it may make."""
    clock = Clock()
    pace = Pace(clock.now, clock.sleep)
    pace.follow(limits_of_each(num_hosts), host / num_hosts)
    found = []
    for _ in range(count):
        pace.turn()
        found.append(clock.now_s)
    return found


@pytest.mark.parametrize("num_hosts", [1, 8, 1000, 10_000])
def test_all_hosts_together_make_fewer_requests_a_second_than_a_bucket_takes(num_hosts):
    all_turns = sorted(at for host in range(num_hosts) for at in turns(num_hosts, host, -(-3000 // num_hosts)))
    gaps = [later - earlier for earlier, later in pairwise(all_turns)]
    assert min(gaps, default=1.0) > 0.99 / ALL_REQUESTS_PER_S
    assert ALL_REQUESTS_PER_S < 3500


def test_more_hosts_send_larger_parts_within_the_memory_of_uploads():
    for num_hosts, expected in ((1, (16, 8)), (8, (16, 8)), (100, (32, 8)), (1000, (64, 4)), (10_000, (64, 4))):
        limits = limits_of_each(num_hosts)
        assert (limits.part_bytes >> 20, limits.at_once) == expected
        assert limits.requests_per_s == ALL_REQUESTS_PER_S / num_hosts


def test_several_requests_take_several_turns_and_time_that_has_passed_is_not_made_up_for():
    clock = Clock()
    pace = Pace(clock.now, clock.sleep)
    pace.turn(1000)
    assert clock.now_s == 100.0  # without limits
    pace.follow(UploadLimits(requests_per_s=2.0), 0.5)
    pace.turn(3)
    assert clock.now_s == 100.25
    pace.turn()
    assert clock.now_s == 101.75
    clock.now_s = 200.0
    for expected in (200.0, 200.5):
        pace.turn()
        assert clock.now_s == expected


def test_no_more_parts_are_sent_at_once_than_may_be():
    pace = Pace()
    pace.follow(UploadLimits(at_once=2), 0.0)
    sending, over = [], threading.Event()

    def send() -> None:
        with pace.sending():
            sending.append(1)
            over.wait(WAIT_S)

    threads = [threading.Thread(target=send) for _ in range(3)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(sending) == 2, "two are sent")
    over.set()
    for thread in threads:
        thread.join(WAIT_S)
    assert len(sending) == 3
