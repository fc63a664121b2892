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

from ckptd.engine.checkpoint import Checkpoint

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


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Let SIGINT and SIGTERM take effect at the end: what one interrupts while it is started would run on unseen."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
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
        with contextlib.ExitStack() as start:
            start.enter_context(_signals_wait())
            process = subprocess.Popen(  # noqa: S602 - the user's own line, and nothing is put into it
                self._line,
                shell=True,
                stdin=subprocess.DEVNULL,
                stdout=self._stdout,
                env={**os.environ, "CKPTD_PREFIX": checkpoint.prefix, "CKPTD_STEP": step},
                start_new_session=True,  # only we send signals, to the whole group
            )
            try:
                start.close()
                code = process.wait()
            except BaseException as interruption:
                number = signal.SIGINT if isinstance(interruption, KeyboardInterrupt) else signal.SIGTERM
                _end(process, number)
                raise
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
