"""Processes that are started by one process, and all that these start: found by parentage, and ended.

The process is a subreaper: what loses its parent becomes its child, so nothing that was started leaves its tree.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from ckptd.errors import InvalidRequestError, NotPermittedError

_PR_SET_CHILD_SUBREAPER = 36
_LOOK_S = 0.02
_RESTORED = (signal.SIGPIPE, signal.SIGXFSZ)  # Python ignores them


def adopt_orphans() -> None:
    """Become the parent of each process below this one whose own parent ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def spawn(
    command: Sequence[str],
    environ: Mapping[str, str],
    *,
    mask: Collection[int],
    stdin: int | None = None,
    output: int | None = None,
    is_leader: bool = False,
) -> int:
    """Start a process and return its pid.

    Args:
        command: program and arguments.
        environ: its environment.
        mask: the signals that are blocked in it.
        stdin: the descriptor that becomes its standard input; by default it has ours.
        output: the same for standard output and error.
        is_leader: it gets a session of its own, which no terminal ends.

    Raises:
        InvalidRequestError: there is no such program.
        NotPermittedError: it may not be run, or the system has no place for it.
    """
    actions = [] if stdin is None else [(os.POSIX_SPAWN_DUP2, stdin, 0)]
    if output is not None:
        actions += [(os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)]
    try:
        return os.posix_spawnp(
            command[0],
            list(command),
            dict(environ),
            file_actions=actions,
            setsigmask=mask,
            setsigdef=_RESTORED,
            setsid=is_leader,
        )
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InvalidRequestError(f"the command cannot be started: {error.strerror}", key=command[0]) from error
    except OSError as error:
        raise NotPermittedError(f"the command cannot be started: {error.strerror}", key=command[0]) from error


class Children:
    """The children of this process. Nothing else may wait for one."""

    def __init__(self) -> None:
        """Know none yet."""
        self._codes: dict[int, int] = {}

    def reap(self) -> None:
        """Take note of those that have ended."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                self._codes[pid] = os.waitstatus_to_exitcode(status)

    def code(self, pid: int) -> int | None:
        """Return how a child has ended, negative for a signal; None while it runs."""
        self.reap()
        return self._codes.get(pid)

    def wait(self, pids: Iterable[int], until: float) -> bool:
        """Wait until all of these have ended, or until then (`time.monotonic`); return whether they have."""
        waited = list(pids)
        while any(self.code(pid) is None for pid in waited):
            if time.monotonic() >= until:
                return False
            signal.sigtimedwait({signal.SIGCHLD}, _LOOK_S)  # blocked in our process: an end wakes us
        return True

    def end_descendants(self, spared: Collection[int], grace_s: float) -> int:
        """End all below this process but `spared` and what is below these: SIGTERM, then SIGKILL; return how many."""
        ended: set[int] = set()
        kill_at = time.monotonic() + grace_s
        give_up_at = kill_at + 10.0
        told: set[int] = set()
        while (left := self._living(spared)) and time.monotonic() < give_up_at:
            is_late = time.monotonic() >= kill_at
            for pid in left:
                ended.add(pid)
                if is_late or pid not in told:
                    told.add(pid)
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, signal.SIGKILL if is_late else signal.SIGTERM)
            signal.sigtimedwait({signal.SIGCHLD}, _LOOK_S)
        return len(ended)

    def _living(self, spared: Collection[int]) -> list[int]:
        self.reap()
        return descendants(os.getpid(), spared)


def descendants(of: int, spared: Collection[int] = ()) -> list[int]:
    """Return the pids of all living processes below `of`, but for `spared` and what is below these."""
    below: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # pid (name) state parent …, and the name may hold anything
                state, parent = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
                if state not in "ZX":
                    below.setdefault(int(parent), []).append(int(entry.name))
    found: list[int] = []
    waiting = [of]
    while waiting:
        for pid in below.get(waiting.pop(), ()):
            if pid not in spared:
                found.append(pid)
                waiting.append(pid)
    return found


def how_it_ended(code: int) -> str:
    """Say how a process has ended."""
    return f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
