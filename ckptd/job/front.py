"""Two processes for one command: the one that the user sees, and the one that does the work.

Whichever of them is killed, the other ends all that was started. Signals for the first are for the trainer. One that
was sent to every process, as a terminal does and SLURM, has come to the trainer too, and is not sent again.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ckptd.job.job import FORWARDED, Told
from ckptd.job.processes import Children, adopt_orphans

_MESSAGE = struct.Struct("!i")
_SAME_MOMENT_S = 1.0
_LEFT_S = 5.0


class Orders:
    """What the user's process is told, as the other hears it."""

    def __init__(self, connection: socket.socket) -> None:
        """`connection` with the user's process."""
        self._connection = connection
        connection.setblocking(False)

    def __call__(self, trainer: int) -> Sequence[int]:
        """Return the signals for the trainer since the last call; raises `Told` when the user's process is gone."""
        numbers = []
        while True:
            try:
                data = self._connection.recv(_MESSAGE.size)
            except BlockingIOError:
                break
            if not data:
                raise Told
            numbers += [number for (number,) in _MESSAGE.iter_unpack(data)]
        return [number for number in numbers if not _has_come_to(trainer, number)]

    def note(self, pid: int) -> None:
        """Tell the user's process the pid of a daemon, which ends by itself."""
        with contextlib.suppress(OSError):
            self._connection.send(_MESSAGE.pack(pid))


def _has_come_to(trainer: int, number: int) -> bool:
    """Say whether a signal was sent to all of us: then to this process, which none has a reason to send it to."""
    if not trainer:
        return False
    with contextlib.suppress(ProcessLookupError):
        if os.getpgid(trainer) == os.getpgid(0):
            return signal.sigtimedwait({number}, _SAME_MOMENT_S) is not None
    return False


def in_two(work: Callable[[Orders, set[signal.Signals]], int]) -> int:
    """Carry out `work` in a child, and return its exit code in both processes.

    `work` gets the orders, and the signals that were blocked before. What it raises is raised in the child.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {*FORWARDED, signal.SIGCHLD})
    before = {signal.Signals(number) for number in blocked}
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    adopt_orphans()
    pid = os.fork()
    if pid == 0:
        ours.close()
        return work(Orders(theirs), before)
    theirs.close()
    return _Front(pid, ours).attend()


class _Front:
    """The user's process."""

    def __init__(self, worker: int, connection: socket.socket) -> None:
        self._worker, self._connection = worker, connection
        self._children = Children()
        self._daemons: set[int] = set()

    def attend(self) -> int:
        """Pass signals on until the other process has ended; return its exit code."""
        while (code := self._children.code(self._worker)) is None:
            number = signal.sigwaitinfo({*FORWARDED, signal.SIGCHLD}).si_signo
            self._take_notes()
            if number != signal.SIGCHLD:
                with contextlib.suppress(OSError):
                    self._connection.send(_MESSAGE.pack(number))
        self._take_notes()
        self._connection.close()
        if code < 0:  # it was killed, and its children are ours: its daemons end by themselves, as it is gone
            self._children.end_descendants(self._daemons, _LEFT_S)
            self._children.wait(self._living(), time.monotonic() + 3600.0)
        return code if code >= 0 else 128 - code

    def _living(self) -> list[int]:
        return [pid for pid in self._daemons if Path(f"/proc/{pid}").exists()]

    def _take_notes(self) -> None:
        while select.select([self._connection], [], [], 0)[0]:
            try:
                data = self._connection.recv(_MESSAGE.size)
            except OSError:
                return
            if not data:
                return
            self._daemons |= {pid for (pid,) in _MESSAGE.iter_unpack(data)}
