"""The line that a lock says of its holder: written and read in one place, also as earlier releases wrote it."""

from __future__ import annotations

import os
import socket

import pytest

from ckptd.storage.lock_holder import LockHolder


@pytest.mark.parametrize(
    ("line", "holder"),
    [
        (
            "ckptd serve, pid 4711 on host-a, grpc://127.0.0.1:7070",
            LockHolder("ckptd serve", 4711, "host-a", "grpc://127.0.0.1:7070"),
        ),
        ("ckptd serve, pid 7 on h, unix:/run/a b/c.sock", LockHolder("ckptd serve", 7, "h", "unix:/run/a b/c.sock")),
        ("direct mode, pid 7 on host-a", LockHolder("direct mode", 7, "host-a")),
        ("a ckptd command, pid 7 on host-a", LockHolder("a ckptd command", 7, "host-a")),
        ("ckptd cp, pid 7", LockHolder("ckptd cp", 7)),
        ("ckptd.Saver", LockHolder("ckptd.Saver")),
        ("somebody else, pid x on y", LockHolder("somebody else, pid x on y")),
        ("", LockHolder("")),
    ],
)
def test_lines_of_all_releases_are_read_and_written_alike(line: str, holder: LockHolder) -> None:
    assert LockHolder.parse(line) == holder
    assert holder.line == line
    assert holder.is_daemon == line.startswith("ckptd serve")


def test_this_process_finds_itself_in_its_own_line() -> None:
    here = LockHolder.here("direct mode")
    assert (here.pid, here.host) == (os.getpid(), socket.gethostname())
    assert LockHolder.parse(here.line) == here
    assert LockHolder.parse(None).is_daemon is False
