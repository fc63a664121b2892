"""Threads of our own: they are used again, work is done without them if need be, and errors reach the caller."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

import pytest

from ckptd import threads
from tests import seams

BOUND_S = 60.0


def test_each_returns_results_in_their_order_and_uses_the_callers_thread():
    barrier = threading.Barrier(3)

    def do(number: int) -> tuple[int, bool]:
        if number < 3:
            barrier.wait(BOUND_S)  # three work at once, or this breaks
        return number, threading.current_thread() is threading.main_thread()

    results = threads.each(do, range(9), 3, "test")
    assert [number for number, _ in results] == list(range(9))
    assert any(is_main for _, is_main in results)


def test_each_raises_the_first_error_once_nobody_works_any_more():
    working = threading.Semaphore(0)
    others_end = threading.Event()

    def do(number: int) -> None:
        if number == 1:
            working.acquire(timeout=BOUND_S)
            raise ValueError("1")
        working.release()
        if number == 0:
            threading.Timer(0.05, others_end.set).start()
            others_end.wait(BOUND_S)

    with pytest.raises(ValueError, match="1"):
        threads.each(do, range(100), 2, "test")
    assert others_end.is_set()


class Interrupted(threading.Condition):
    """One whose waits are ended by Ctrl-C, as often as it says; the wait after those is announced."""

    def __init__(self, times: int, lock: threading.Lock) -> None:
        super().__init__(lock)
        self.times = times
        self.is_awaited = threading.Event()

    def wait_for(self, predicate, timeout=None):  # type: ignore[no-untyped-def]
        if self.times:
            self.times -= 1
            raise KeyboardInterrupt
        self.is_awaited.set()
        return super().wait_for(predicate, timeout)


@pytest.mark.parametrize("is_begun", [False, True], ids=["before", "after"])
def test_ctrl_c_as_a_helper_is_started_waits_for_none_that_has_not_begun(
    monkeypatch: pytest.MonkeyPatch, is_begun: bool
):
    helpers: list[Callable[[], object]] = []
    done: list[int] = []
    ended: list[BaseException] = []

    def interrupted(help_out: Callable[[], object], name: str) -> None:
        if is_begun:
            helpers.append(help_out)
        raise KeyboardInterrupt

    def call() -> None:
        try:
            threads.each(done.append, range(100), 4, "test")
        except KeyboardInterrupt as error:
            ended.append(error)

    seams.START_THREAD.put(monkeypatch, interrupted)
    caller = threading.Thread(target=call, daemon=True)
    caller.start()
    caller.join(BOUND_S)
    assert ended
    assert len(helpers) == is_begun
    for help_out in helpers:  # its thread runs only now
        help_out()
    assert not done


def test_a_helper_that_has_not_begun_keeps_nothing_alive(monkeypatch: pytest.MonkeyPatch):
    class Held:
        """What a reader holds: a lock, say."""

    helpers: list[Callable[[], object]] = []
    seams.START_THREAD.put(monkeypatch, lambda work, name: helpers.append(work))
    held = Held()
    is_held = weakref.ref(held)
    threads.each(lambda number, it=held: None, range(3), 2, "test")
    del held
    assert helpers
    assert is_held() is None


@pytest.mark.parametrize(("times", "insists", "is_waited_for"), [(1, False, True), (2, False, False), (2, True, True)])
def test_a_second_ctrl_c_does_not_wait_for_helpers_unless_told_to(
    monkeypatch: pytest.MonkeyPatch, times: int, insists: bool, is_waited_for: bool
):
    lock, condition = threading.Lock(), threading.Condition
    changed = Interrupted(times, lock)
    both_work, ended = threading.Barrier(2), threading.Event()

    def do(number: int) -> None:
        both_work.wait(BOUND_S)
        if threading.current_thread() is not threading.main_thread():
            changed.is_awaited.wait(BOUND_S)
            ended.set()

    with monkeypatch.context() as patched:
        seams.NEW_LOCK.put(patched, lambda: lock)
        patched.setattr(threading, "Condition", lambda it=None: changed if it is lock else condition(it))
        with pytest.raises(KeyboardInterrupt):
            threads.each(do, range(2), 2, "test", insists=insists)
    assert ended.is_set() == is_waited_for
    assert not changed.times
    changed.is_awaited.set()
    assert ended.wait(BOUND_S)


def no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    seams.IDLE_THREADS.put(monkeypatch, [])
    monkeypatch.setattr(threading.Thread, "start", refuse)


def test_what_the_caller_can_do_needs_no_thread(monkeypatch: pytest.MonkeyPatch):
    no_thread(monkeypatch)
    assert threads.each(str, [1, 2, 3], 4, "test") == ["1", "2", "3"]
    assert threads.Pool(2, "test").call(lambda: 5).result(0) == 5


def test_a_pool_refuses_what_nobody_can_do_and_goes_on_with_one_thread(monkeypatch: pytest.MonkeyPatch):
    closed, opened = threads.Pool(2, "test"), threads.Pool(2, "test")
    opened.open()
    try:
        no_thread(monkeypatch)
        with pytest.raises(RuntimeError, match="start new thread"):
            closed.submit(lambda: None)
        assert closed.settle(0)
        assert [opened.call(work).result(BOUND_S) for work in (lambda: 1, lambda: 2)] == [1, 2]
    finally:
        opened.close()


def test_reserved_threads_do_what_comes_when_no_more_can_be_started(monkeypatch: pytest.MonkeyPatch):
    threads.reserve(2)
    kept = list(threads.idle)
    no_thread(monkeypatch)
    seams.IDLE_THREADS.put(monkeypatch, kept)
    done = [threading.Event(), threading.Event()]
    for event in done:
        threads.start(event.set, "test")
    assert all(event.wait(BOUND_S) for event in done)


@pytest.mark.parametrize("most", [1, 3])
def test_a_pool_works_in_order_on_no_more_threads_than_allowed(most: int):
    pool = threads.Pool(most, "test")
    lock, begun, at_once, busy = threading.Lock(), list[int](), list[int](), 0

    def work_of(number: int) -> Callable[[], None]:
        def work() -> None:
            nonlocal busy
            with lock:
                busy += 1
                begun.append(number)
                at_once.append(busy)
            threading.Event().wait(0.002)
            with lock:
                busy -= 1

        return work

    for number in range(20):
        pool.submit(work_of(number))
    assert pool.settle(BOUND_S)
    assert max(at_once) <= most
    assert sorted(begun) == list(range(20))
    if most == 1:
        assert begun == list(range(20))


def test_work_that_raises_takes_no_thread_with_it(caplog: pytest.LogCaptureFixture):
    pool = threads.Pool(1, "test")
    pool.open()
    try:
        pool.submit(lambda: 1 / 0)
        assert pool.call(lambda: "on").result(BOUND_S) == "on"
    finally:
        pool.close()
    assert "ZeroDivisionError" in caplog.text


def test_a_thread_that_could_not_be_started_is_told_from_other_errors():
    """Python really refuses here: no address space has room for such a stack."""
    before = threading.stack_size(1 << 47)
    try:
        with pytest.raises(RuntimeError) as refused:
            threading.Thread(target=lambda: None).start()
    finally:
        threading.stack_size(before)
    assert threads.is_refusal(refused.value)
    with pytest.raises(RuntimeError) as other:
        raise RuntimeError("can't start new thread")  # the same words, said by something else
    assert not threads.is_refusal(other.value)
    assert not threads.is_refusal(RuntimeError("never raised"))
