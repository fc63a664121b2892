"""Traps: points in the code of a process at which it stops itself, so that a test can do to it what it likes there.

A test arms one by a file (`Traps.arm`), as often as it likes while the process lives. Whoever comes to that point first
takes the file away and stops the whole process (SIGSTOP). Then the test kills it, or cuts its cable and lets it go on.
"""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ckptd.engine.hosts.messages import Beat
from tests import seams
from tests.fakes.waiting import eventually
from tests.seams import Seam

MESSAGES = {
    seams.TOLD_BY_AGENT: "send",
    seams.HEARD_BY_AGENT: "receive",
    seams.HEARD_BY_COORDINATOR: "receive",
    seams.TOLD_BY_COORDINATOR: "send",
}
"""What converts messages of agents and coordinators: each in one of the two, before it sends or after it receives."""

_RECEIVED = (seams.HEARD_BY_AGENT, seams.HEARD_BY_COORDINATOR)
_AROUND = {
    seams.BEGIN_SHARD: "shard.begin",
    seams.FINISH_SHARD: "shard.finish",
    seams.BEGIN_SAVE: "rank.begin",
    seams.CAPTURE: "rank.capture",
    seams.OUTCOME_AT_DAEMON: "rank.outcome",
}
"""A trap before and one after each."""


class Traps:
    """Those of one process, in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    # In the test

    def arm(self, point: str) -> None:
        """Let the process stop when it comes to a point."""
        self.directory.mkdir(exist_ok=True)
        (self.directory / f"{point}.reached").unlink(missing_ok=True)
        (self.directory / point).touch()

    def disarm(self) -> None:
        """Take all away."""
        for path in self.directory.glob("*"):
            path.unlink(missing_ok=True)

    def has_stopped(self, point: str, pid: int) -> bool:
        """Whether the process has come there, and stands still."""
        return (self.directory / f"{point}.reached").exists() and is_stopped(pid)

    # In the process

    def come_to(self, point: str) -> None:
        """Stop here, if a trap is armed."""
        armed = self.directory / point
        try:
            armed.rename(armed.with_name(f"{point}.reached"))
        except FileNotFoundError:
            return
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)  # to this thread, so that it stops here

    def set_up(self, patch: pytest.MonkeyPatch) -> None:
        """Make the points in this process."""
        for seam, what in MESSAGES.items():
            seam.put(patch, self._message(seam, what))
        for seam, name in _AROUND.items():
            seam.put(patch, self._around(seam.value, name))
        seams.NEW_CATALOG.put(patch, self._with_steps(seams.NEW_CATALOG.value))

    def _message(self, seam: Seam, what: str) -> Callable[..., Any]:
        convert, is_received = seam.value, seam in _RECEIVED

        @functools.wraps(convert)
        def converted(message: Any, *arguments: Any) -> Any:
            result = convert(message, *arguments)
            self.come_to(f"{what}.{_kind(result if is_received else message)}")
            return result

        return converted

    def _around(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def around(*arguments: Any, **more: Any) -> Any:
            self.come_to(name)
            result = function(*arguments, **more)
            self.come_to(f"{name}.done")
            return result

        return around

    def _with_steps(self, init: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(init)
        def begin(*arguments: Any, on_step: Callable[[str], None] = lambda step: None, **more: Any) -> None:
            def tell(step: str) -> None:
                on_step(step)
                self.come_to(f"step.{step}")

            init(*arguments, on_step=tell, **more)

        return begin


def _kind(message: object) -> str:
    """Return the name of a message's kind: a beat that tells the end of a save is one of its own."""
    return "HeardEnd" if isinstance(message, Beat) and message.ends else type(message).__name__


def is_stopped(pid: int) -> bool:
    """Whether every thread of a process stands still."""
    states = []
    for path in Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            states.append(path.read_text().rpartition(")")[2].split()[0])
        except OSError:
            return False  # it ends
    return bool(states) and set(states) <= {"T", "t"}


def stop(pid: int) -> None:
    """Stop a process; returns when it stands still."""
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: is_stopped(pid), "its standstill")
