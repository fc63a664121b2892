"""The priority of the threads that write, below that of programs that compute and of programs that use the disk.

On Linux both priorities belong to a thread, not to a process, and a thread starts with those of the one that made it.
So they are set in the threads that write, each by itself, and training beside them keeps its own.
"""

from __future__ import annotations

import ctypes
import os
import platform
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ckptd.errors import InvalidRequestError, UnavailableError

IO_CLASSES = ("best-effort", "idle")
"""Least of the ordinary class, or only when nothing else wants the disk."""

CLASS_AND_LEVEL = {"best-effort": (2, 7), "idle": (3, 0)}
_CLASS_SHIFT = 13
_IOPRIO_WHO_PROCESS = 1
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "loongarch64": 30, "ppc64le": 273, "s390x": 282}

AUTOGROUP = Path("/proc/sys/kernel/sched_autogroup_enabled")

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Priority:
    """The priorities that a writing thread requests from the kernel.

    Attributes:
        nice: 0 (as others) to 19 (after all others); None leaves it as it is.
        io_class: one of `IO_CLASSES`; None leaves it as it is. Only some of the kernel's I/O schedulers use it.
    """

    nice: int | None = None
    io_class: str | None = None

    def apply(self) -> None:
        """Set the priorities of the calling thread; made to be a thread pool's initializer.

        Raises:
            InvalidRequestError: when this system has no such thing.
            UnavailableError: when the kernel refuses.
        """
        try:
            if self.nice is not None:
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self.nice)
            if self.io_class is not None:
                _set_io_priority(*CLASS_AND_LEVEL[self.io_class])
        except OSError as error:
            raise UnavailableError(f"the kernel refuses this priority: {error.strerror}", actual=str(self)) from error

    def caveat(self) -> str:
        """Return what is known to keep `nice` from making others go first, in words; empty if nothing is."""
        try:
            is_grouped = AUTOGROUP.read_text().strip() == "1"
        except OSError:
            return ""
        if not (self.nice and is_grouped):
            return ""
        return (
            f"nice {self.nice} counts only against threads of the daemon's own session: this kernel first shares the "
            f"processors among sessions (sched_autogroup_enabled). Writing 5 to /proc/{os.getpid()}/autogroup lets "
            "others go first"
        )

    def check(self) -> None:
        """Raise what `apply` would, and change nothing: it is tried in a thread of its own."""
        with ThreadPoolExecutor(1) as pool:
            pool.submit(self.apply).result()


def _set_io_priority(io_class: int, level: int) -> None:
    number = _IOPRIO_SET.get(platform.machine())
    if number is None:
        raise InvalidRequestError("input/output priorities are not known on this processor", actual=platform.machine())
    if _libc.syscall(number, _IOPRIO_WHO_PROCESS, 0, (io_class << _CLASS_SHIFT) | level) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
