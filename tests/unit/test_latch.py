"""An event that Ctrl-C cannot break."""

from __future__ import annotations

import signal
import threading

from ckptd.latch import Latch


def test_it_is_set_once_and_for_good():
    latch = Latch()
    assert not latch.is_set()
    assert not latch.wait(0)
    latch.set()
    latch.set()
    assert latch.is_set()
    assert latch.wait()
    assert latch.wait(0)


def test_all_that_wait_are_woken():
    latch, woken = Latch(), threading.Semaphore(0)

    def wait():
        assert latch.wait(60.0)
        woken.release()

    waiting = [threading.Thread(target=wait) for _ in range(20)]
    for one in waiting:
        one.start()
    latch.set()
    for one in waiting:
        one.join(60.0)
        assert woken.acquire(timeout=60.0)


def test_ctrl_c_at_any_moment_of_a_call_breaks_no_later_one():
    previous = signal.signal(signal.SIGALRM, lambda *_: signal.default_int_handler(signal.SIGINT, None))
    try:
        for number in range(2000):
            latch = Latch()
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + number % 40))
                while True:
                    latch.wait(0)
                    latch.set()
            except KeyboardInterrupt:
                pass
            latch.set()
            assert latch.wait(60.0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
