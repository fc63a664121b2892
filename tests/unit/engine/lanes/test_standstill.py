"""While a rank still copies, the engine leaves the processors to it."""

from __future__ import annotations

import threading

import pytest

from ckptd.engine.lanes.capture import LONG_BYTES
from ckptd.engine.lanes.standstill import Standstill
from ckptd.errors import CkptdError, SessionAbortedError
from tests.fakes.waiting import eventually, never

BOUND_S = 60.0
A_MOMENT_S = 0.1


class Copying:
    """As much of a capture as the time until its end goes by."""

    def __init__(self, size_bytes: int = LONG_BYTES) -> None:
        self.memory = range(size_bytes)  # as much as is asked of it: a length
        self.sealed = threading.Event()
        self.error: CkptdError | None = None

    @property
    def is_sealed(self) -> bool:
        return self.sealed.is_set()

    def wait_sealed(self, timeout_s: float) -> bool:
        return self.sealed.wait(timeout_s)

    def check(self) -> None:
        if self.error is not None:
            raise self.error


def nothing_else() -> None:
    pass


def begin(work) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_it_is_over_when_the_last_capture_is_complete() -> None:
    captures = [Copying(), Copying()]
    standstill = Standstill(captures)
    waiting = begin(lambda: standstill.wait(nothing_else))
    captures[1].sealed.set()
    waiting.join(A_MOMENT_S)
    assert waiting.is_alive()
    assert not standstill.is_over
    captures[0].sealed.set()
    waiting.join(BOUND_S)
    assert not waiting.is_alive()
    assert standstill.is_over


def test_small_captures_are_not_waited_for() -> None:
    assert Standstill([]).is_over
    assert Standstill([Copying(LONG_BYTES - 1)]).is_over


def test_waiting_ends_with_a_capture_that_was_given_up_and_with_what_else_ends_it() -> None:
    captures = [Copying(), Copying()]
    captures[0].sealed.set()
    captures[1].error = SessionAbortedError("rank 1 died")
    with pytest.raises(SessionAbortedError, match="rank 1 died"):
        Standstill(captures).wait(nothing_else)

    def save_is_over() -> None:
        raise SessionAbortedError("the save is over")

    with pytest.raises(SessionAbortedError, match="the save is over"):
        Standstill([Copying()]).wait(save_is_over)


def test_one_works_at_a_time_until_it_is_over_and_then_all_do() -> None:
    capture = Copying()
    standstill = Standstill([capture])
    at_work: list[int] = []
    go_on = threading.Event()

    def work(number: int) -> None:
        with standstill.turn():
            at_work.append(number)
            go_on.wait(BOUND_S)

    def await_workers(count: int) -> None:
        eventually(lambda: len(at_work) >= count, lambda: at_work, within_s=BOUND_S)

    workers = [begin(lambda number=number: work(number)) for number in range(3)]
    await_workers(1)
    never(lambda: len(at_work) > 1, "a second one at work", within_s=A_MOMENT_S)
    capture.sealed.set()  # whoever waits for a turn needs none any more, though the first has not ended
    await_workers(3)
    assert sorted(at_work) == [0, 1, 2]
    go_on.set()
    for worker in workers:
        worker.join(BOUND_S)
    with standstill.turn():
        pass


def test_a_turn_is_given_up_by_who_fails() -> None:
    standstill = Standstill([Copying()])
    with pytest.raises(ValueError, match="no disk"), standstill.turn():
        raise ValueError("no disk")
    with standstill.turn():
        pass
