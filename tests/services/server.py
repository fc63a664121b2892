"""What the S3 servers of the tests have in common: they are started, killed and ended as processes of this host."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Protocol

_GIVEN_AWAY = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST_PORT = 10_000
_chance = random.SystemRandom()  # not that of tests, which seed it


class CannotRunError(Exception):
    """This host cannot run or install it; the message says why."""


class Server(Protocol):
    """One server of our own, on loopback. Its processes end with this one."""

    endpoint: str
    keys: tuple[str, str]

    def start(self) -> None:
        """Start what does not run. Returns when it answers; `CannotRunError` when this host cannot run it."""

    def stop(self) -> None:
        """End all of it."""

    def kill9(self, *parts: str) -> None:
        """Kill it as a power cut would; `start` brings it back. A server of one process knows no `parts`."""


def end(process: subprocess.Popen[bytes] | None, how: signal.Signals) -> None:
    """End a process, by force if it does not end within a while."""
    if process is None:
        return
    process.send_signal(how)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(15)


def free_ports(count: int = 1) -> list[int]:
    """Return ports of this host that nobody has, nor is given before they are used.

    The system gives those of `_GIVEN_AWAY` to whoever connects, and to whoever listens on port 0.
    """
    first = int(_GIVEN_AWAY.read_text().split()[0])
    found: list[socket.socket] = []
    try:
        while len(found) < count:
            one = socket.socket()
            found.append(one)
            try:
                one.bind(("127.0.0.1", _chance.randrange(_LOWEST_PORT, first) if first > _LOWEST_PORT else 0))
            except OSError:  # somebody has it
                found.pop().close()
        return [int(each.getsockname()[1]) for each in found]
    finally:
        for each in found:
            each.close()


def answers(port: int) -> bool:
    """Say whether somebody listens there."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
