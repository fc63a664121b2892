from __future__ import annotations

import threading

from ckptd.daemon.app import Ticker


class Failing:
    """A coordinator whose first ticks fail."""

    def __init__(self, failures):
        self.failures = failures
        self.ticks = 0
        self.recovered = threading.Event()

    def tick(self):
        self.ticks += 1
        if self.ticks <= self.failures:
            raise OSError("the disk is gone")
        self.recovered.set()


def test_time_goes_on_after_a_failure_which_is_told_once(caplog):
    coordinator = Failing(5)
    with Ticker(coordinator, every_s=0.001):
        assert coordinator.recovered.wait(60)
    ticks = coordinator.ticks
    assert caplog.text.count("deadlines could not be applied") == 1
    assert "the disk is gone" in caplog.text
    assert coordinator.ticks == ticks
