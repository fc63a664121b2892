"""The end of the program: the interpreter waits for pending saves, and reports those that were lost.

What `save` has accepted is durable when the process has ended by itself: at the end of the script, by `sys.exit`, by an
exception, by the end of the main thread while others run. Python gives two moments for that, and both are needed. The
first comes when the main thread has ended, before the thread pools of other libraries are shut down, which a store may
need: it is private to `threading`, and the same from 3.9 to 3.14. Threads that go on may save after that, so there is
the second, `atexit`. It is registered at the first save, so that it comes before what libraries have registered until
then, such as JAX's end of its devices.

A save that failed, and whose error was not seen, is reported on stderr, and the exit code is not 0. Nothing that
Python calls at the end may choose the exit code, except one: when stdout can't be flushed, after everything else was
called, the code is 120, which Python's documentation has for an error in the cleanup. So flushing is made to fail. A
process of `multiprocessing` chooses its own exit code, and has no `atexit`: it uses hooks of its own.

Ctrl-C ends the wait. A forked child does not wait for its parent's saves.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # registers its own end, which has to come after ours  # noqa: F401
import contextlib
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ckptd.client.deadline import Deadline
from ckptd.client.saving.completion import Completion, may_still_be_saved
from ckptd.errors import CkptdError, UnavailableError
from ckptd.printable import printable

EXIT_CODE = 120
"""The exit code of a program that would have ended with 0, and has lost a save."""

_STARTS_NO_THREAD = (3, 12, 0) <= sys.version_info[:3] <= (3, 12, 1)
"""At the end, this interpreter doesn't; gRPC, which needs some, is not ready for that, and its own end is for ever."""

_MARGIN_S = 20.0  # a save's own deadline comes first, and its error says why
TELL_S = 10.0
_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class _Owed:
    """A save, where it goes, and how long it is waited for."""

    pending: Completion
    where: str
    deadline: Deadline

    def __str__(self) -> str:
        return f"{self.pending} of {self.where}"


class _Ending:
    """The saves that this process still has to wait for. Any thread may use it.

    Attributes:
        has_lost: whether a save was reported as lost.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owed: list[_Owed] = []
        self.has_lost = False
        self._is_registered = False
        self._then: list[Callable[[], None]] = []

    def then(self, work: Callable[[], None]) -> None:
        """Have this called at the end, when every save has ended; once, however often it is passed."""
        with self._lock:
            if work not in self._then:
                self._then.append(work)

    def owe(self, pending: Completion, where: str, timeout_s: float) -> None:
        """Wait for this save at the end."""
        with self._lock:
            self._owed = [one for one in self._owed if not one.pending.owes_nothing]
            self._owed.append(_Owed(pending, where, Deadline(timeout_s + _MARGIN_S)))
            is_first, self._is_registered = not self._is_registered, True
        if is_first:
            atexit.register(_last_call)
            if multiprocessing.parent_process() is not None:
                _before_a_worker_ends()

    def settle_if_late(self) -> None:
        """Wait for every pending save if it is the end of the program that saves: nothing may come after it."""
        main = threading.main_thread()
        if threading.current_thread() is main and not main.is_alive():
            self.last_call()

    def settle(self) -> None:
        """Wait for every pending save, and report what is lost. May be repeated."""
        try:
            self._wait()
        except BaseException as error:
            reason = "Ctrl-C" if isinstance(error, KeyboardInterrupt) else repr(error)
            for one in self._rest():
                if not one.pending.done():
                    self._give_up(one, f"{reason} ended the wait for it")
        for one in self._rest():
            lost = one.pending.take_unseen_error()
            if lost is not None:
                self.has_lost = True
                _say(f"{one} {'may be' if may_still_be_saved(lost) else 'is'} lost: {_in_full(lost)}")
        for work in list(self._then):
            work()

    def last_call(self) -> None:
        """Settle, and set the exit code."""
        self.settle()
        # An exception that nothing has caught ends the program with 1.
        has_failed = hasattr(sys, "last_value") and not hasattr(sys, "ps1")
        if self.has_lost and _STARTS_NO_THREAD:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
            os._exit(1 if has_failed else EXIT_CODE)
        if self.has_lost and not has_failed and not isinstance(sys.stdout, _FailingAtTheEnd):
            sys.stdout = _FailingAtTheEnd(sys.stdout)

    def owed(self) -> list[Completion]:
        return [one.pending for one in self._rest()]

    def _rest(self) -> list[_Owed]:
        with self._lock:
            self._owed = [one for one in self._owed if not one.pending.owes_nothing]
            return list(self._owed)

    def _wait(self) -> None:
        began = time.monotonic()
        tell_at = began + TELL_S
        while under_way := [one for one in self._rest() if not one.pending.wait_until_over(0)]:
            one = under_way[0]
            if one.deadline.has_passed:
                if one.pending.done():
                    _say(
                        f"a callback of {one} has not returned, or what max_to_keep deletes is not gone, and the "
                        "program ends without it"
                    )
                    with self._lock:
                        self._owed.remove(one)
                else:
                    self._give_up(one, f"it has not ended within {one.deadline.timeout_s:g} s")
                continue
            now = time.monotonic()
            if now >= tell_at:
                tell_at = now + TELL_S
                more = f" and {len(under_way) - 1} more" if len(under_way) > 1 else ""
                _say(
                    f"the program has ended but for {one}{more}: waiting for {now - began:.0f} s, at most "
                    f"{one.deadline.remaining_s:.0f} s longer; Ctrl-C gives it up"
                )
            one.pending.wait_until_over(min(_POLL_S, one.deadline.remaining_s))

    def _give_up(self, one: _Owed, reason: str) -> None:
        """Wait for a save no longer. Whether it will be complete is open: beside a daemon it may."""
        self.has_lost = True
        one.pending.fail(UnavailableError(f"{reason} at the end of the program"), is_known=True)
        _say(f"{one} may be lost: {reason}")


def _in_full(error: CkptdError) -> str:
    return "; ".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())])


def _say(text: str) -> None:
    with contextlib.suppress(Exception):  # stderr may be closed already
        sys.stderr.write(f"ckptd: {printable(text)}\n")
        sys.stderr.flush()


class _FailingAtTheEnd:
    """stdout, except that the interpreter itself can't flush it: then it ends with `EXIT_CODE`."""

    def __init__(self, stdout: Any) -> None:
        self._stdout = stdout
        self._hook = sys.unraisablehook

    @property
    def closed(self) -> bool:
        """Whether it is; the interpreter does not flush what is closed."""
        return False

    def flush(self) -> None:
        """Flush; fail if the interpreter itself calls this, and no function."""
        if self._stdout is not None and not self._stdout.closed:
            self._stdout.flush()
        try:
            sys._getframe(1)
        except ValueError:
            sys.unraisablehook = self._without_this
            raise CkptdError("a save was lost") from None

    def _without_this(self, unraisable: Any) -> None:
        sys.unraisablehook = self._hook
        if not isinstance(unraisable.exc_value, CkptdError):
            self._hook(unraisable)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stdout, name)


def _before_a_worker_ends() -> None:
    """Settle before a process of `multiprocessing` ends, last of what it calls then, and give it the exit code."""
    from multiprocessing import util

    def settle() -> None:
        _ending.settle()
        if not _ending.has_lost:
            return
        if sys.version_info < (3, 13):
            raise SystemExit(EXIT_CODE)
        # Since 3.13 this is the last of what `atexit` calls, and the code is chosen by then.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(EXIT_CODE)

    util.Finalize(None, settle, exitpriority=-1000)


_ending = _Ending()


def owe(pending: Completion, where: str, timeout_s: float) -> None:
    """Have the end of the program wait for this save, which ends within `timeout_s`, and report it if it is lost."""
    _ending.owe(pending, where, timeout_s)


def then(work: Callable[[], None]) -> None:
    """Have this called at the end of the program, when its saves have ended; it waits a bounded time, and never raises.

    Once, however often it is passed.
    """
    _ending.then(work)


def owed() -> list[Completion]:
    """Return the saves that the end of the program would wait for, or report."""
    return _ending.owed()


def settle_if_late() -> None:
    """Wait for the saves now if the main thread has ended and calls this as part of that."""
    _ending.settle_if_late()


def forget() -> None:
    """Forget all saves of this process: it is a forked child, or the failures were intended."""
    global _ending
    _ending = _Ending()


# A forked child inherits what is registered, which then runs for the child.


def _main_thread_has_ended() -> None:
    _ending.settle()


def _last_call() -> None:
    _ending.last_call()


os.register_at_fork(after_in_child=forget)
with contextlib.suppress(AttributeError, RuntimeError):  # it is no documented interface; or the main thread has ended
    threading._register_atexit(_main_thread_has_ended)  # type: ignore[attr-defined]
