"""The holder of a lock, as fields; a lock stores them as one line, which people can read too."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass

_LINE = re.compile(
    r"(?P<program>.+?), pid (?P<pid>\d{1,18})(?: on (?P<host>[^\s,]+)(?:, (?P<address>.+))?)?", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class LockHolder:
    """The process that holds a lock.

    Layout of its line: ``PROGRAM, pid PID on HOST, ADDRESS``, where what is not known is left out from the end. Every
    release has written lines like that, so older ones are read as well.

    Attributes:
        program: what it is, in words.
        pid: its process id; 0 where that is not known.
        host: the name of its host; "" where that is not known.
        address: where a daemon listens; "" for a process that accepts no commands.
    """

    program: str
    pid: int = 0
    host: str = ""
    address: str = ""

    @classmethod
    def here(cls, program: str, address: str = "") -> LockHolder:
        """Return the fields for this process."""
        return cls(program, os.getpid(), socket.gethostname(), address)

    @classmethod
    def parse(cls, line: object) -> LockHolder:
        """Read a line, as a `ConflictError` has it in `actual`; any other text is the name of a program."""
        match = _LINE.fullmatch(str(line))
        if match is None:
            return cls(str(line))
        return cls(match["program"], int(match["pid"]), match["host"] or "", match["address"] or "")

    @property
    def is_daemon(self) -> bool:
        """Whether it listens, and so accepts requests."""
        return bool(self.address)

    @property
    def line(self) -> str:
        """Its line in a lock."""
        parts = [self.program]
        if self.pid:
            parts.append(f"pid {self.pid}" + (f" on {self.host}" if self.host else ""))
        return ", ".join(parts + ([self.address] if self.address else []))
