"""Which process wrote a note in a bucket, and whether it is alive, as far as this host can tell."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass, field
from pathlib import Path

MAX_NOTE_BYTES = 64 << 10
_HOSTS_OWN_PIDS = "pid:[4026531836]"  # in Linux a constant: PROC_PID_INIT_INO


@dataclass(frozen=True, slots=True)
class Process:
    """One process, by a name that no other will ever have: a pid is reused, but not with the same start time.

    `started` is in clock ticks since the host was started, `boot_id` says which start that was.
    """

    host: str = ""
    boot_id: str = ""
    pid: int = 0
    started: int = 0

    def is_alive(self) -> bool | None:
        """Say whether it is alive; None for a process of another host, about which nothing is known.

        A container counts as a host. A host that was restarted has none of its processes left.
        """
        here = this_process()
        if self.host != here.host or not (self.boot_id and here.boot_id):
            return None
        return self.boot_id == here.boot_id and self.started != 0 and _started(self.pid) == self.started


def this_process() -> Process:
    """Name this process."""
    return Process(_host(), _boot_id(), os.getpid(), _started(os.getpid()))


def _host() -> str:
    """Return the host's name, and in a container its pid namespace: other containers may have the same host name."""
    name = socket.gethostname()
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return name
    return name if namespace == _HOSTS_OWN_PIDS else f"{name} {namespace}"


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _started(pid: int) -> int:
    """Return when a process started, in clock ticks; 0 when there is none, or only a zombie."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = told.rpartition(")")[2].split()  # a program's name may hold blanks and brackets
    return 0 if fields[0] in ("Z", "X") else int(fields[19])


@dataclass(frozen=True, slots=True)
class Note:
    """A store's note in the bucket about something that a process holds: a lock, or an upload under way."""

    holder: str = ""
    process: Process = field(default_factory=Process)
    shared: bool = False
    key: str = ""
    upload_id: str = ""

    def encode(self) -> bytes:
        """Return the note as one JSON object."""
        return (json.dumps(asdict(self), sort_keys=True) + "\n").encode()

    @classmethod
    def decode(cls, data: bytes) -> Note:
        """Read a note. Bytes that are no note read as an empty one, without a process, which may be swept."""
        try:
            fields = json.loads(data)
            process = Process(**fields.pop("process"))
            return cls(**fields, process=process)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return cls()
