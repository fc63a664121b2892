"""Run a user's command for a checkpoint, so that it never outlives us after a signal."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from ckptd.engine.checkpoint import Checkpoint

if sys.version_info >= (3, 11):
    from typing import Self
else:
    from typing_extensions import Self

_GRACE_S = 10.0


class Terminated(BaseException):
    """SIGTERM came. Not an `Exception`: no handler may treat it as an error and go on."""


@contextlib.contextmanager
def terminating() -> Iterator[None]:
    """Raise `Terminated` on SIGTERM; without a handler the first process of a container would ignore the signal."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(_number: int, _frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _SignalsWait:
    """A block at whose end SIGINT and SIGTERM take effect, and within `let_through`.

    What a signal interrupts while it is started would run on unseen. And where Python runs a finalizer, such as that
    of a `Popen`, the exception that a signal raises is reported and dropped: we would go on for ever.
    """

    def __init__(self) -> None:
        self._came: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self._hold()
        return self

    def __exit__(self, *_error: object) -> None:
        self._release()

    @contextlib.contextmanager
    def let_through(self) -> Iterator[None]:
        """Let signals take effect in this block, those that came before it too."""
        self._release()
        try:
            yield
        finally:
            self._hold()

    def _hold(self) -> None:
        for number in self._before:
            signal.signal(number, lambda number, _frame: self._came.append(number))

    def _release(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        came, self._came = self._came, []
        for first in came[:1]:
            signal.raise_signal(first)


class Command:
    """A shell's command line. CKPTD_PREFIX and CKPTD_STEP name the checkpoint."""

    def __init__(self, line: str, *, output_to_stderr: bool = False) -> None:
        self._line = line
        self._stdout = 2 if output_to_stderr else None

    def run(self, checkpoint: Checkpoint) -> int:
        """Run it for one checkpoint, wait for its end, and return its exit code; 128 and more for a signal's.

        An interrupt or SIGTERM is sent to it and all that it has started, and is then raised here; what has not
        ended when the command itself has, or after ten seconds, is killed.
        """
        sys.stdout.flush()  # our output comes before the command's
        step = "" if checkpoint.step is None else str(checkpoint.step)
        with _SignalsWait() as signals:
            process = subprocess.Popen(  # noqa: S602 - the user's own line, and nothing is put into it
                self._line,
                shell=True,
                stdin=subprocess.DEVNULL,
                stdout=self._stdout,
                env={**os.environ, "CKPTD_PREFIX": checkpoint.prefix, "CKPTD_STEP": step},
                start_new_session=True,  # only we send signals, to the whole group
            )
            try:
                with signals.let_through():
                    code = process.wait()
            except BaseException as interruption:
                number = signal.SIGINT if isinstance(interruption, KeyboardInterrupt) else signal.SIGTERM
                with signals.let_through():  # a second one: its end is not waited for
                    _end(process, number)
                raise
            del process
        return code if code >= 0 else 128 - code


def _end(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_S)
    # A process that a shell starts with & ignores SIGINT: it would run on after the command has ended.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
