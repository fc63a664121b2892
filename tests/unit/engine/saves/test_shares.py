from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from ckptd.engine.saves.shares import Shares

BOUND_S = 60.0


def test_an_owner_whose_work_hangs_leaves_threads_to_others_and_loses_nothing():
    release, done = threading.Event(), threading.Semaphore(0)
    with ThreadPoolExecutor(4) as pool:
        shares = Shares(pool.submit, 2)
        order = []

        def hang(number):
            assert release.wait(BOUND_S)
            order.append(number)
            done.release()

        for number in range(10):
            shares.submit("a", lambda number=number: hang(number))
        assert shares.num_waiting("a") == 8
        shares.submit("b", done.release)
        assert done.acquire(timeout=BOUND_S)
        release.set()
        for _ in range(10):
            assert done.acquire(timeout=BOUND_S)
        assert sorted(order) == list(range(10))
    assert shares.num_waiting("a") == 0


def test_work_that_fails_gives_its_thread_back():
    failed = threading.Semaphore(0)

    def fail():
        failed.release()
        raise RuntimeError

    with ThreadPoolExecutor(2) as pool:
        shares = Shares(pool.submit, 1)
        for _ in range(5):
            shares.submit("a", fail)
        for _ in range(5):
            assert failed.acquire(timeout=BOUND_S)
