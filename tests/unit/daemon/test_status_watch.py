"""`ckptd status --watch` on a real terminal and into a pipe, beside a real daemon that is killed and started again."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading

import pytest

from tests.fakes import schemas
from tests.fakes.waiting import eventually

WAIT_S = 60
CLEAR, SHOW_CURSOR, LEAVE = b"\x1b[2J", b"\x1b[?25h", b"\x1b[?1049l"


class Watching:
    """The command, with all that it has written so far."""

    def __init__(self, address, *flags, on_terminal=True, **env):
        self.written = bytearray()
        self.terminal, end = pty.openpty() if on_terminal else os.pipe()
        if on_terminal:
            self.resize(100, 24)
        known = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ckptd", "status", address, "--watch", "--every-s", "0.25", *flags],
            stdin=end if on_terminal else subprocess.DEVNULL,
            stdout=end,
            stderr=subprocess.STDOUT,
            env=known | {"TERM": "xterm-256color"} | env,
            start_new_session=True,
            preexec_fn=(lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)) if on_terminal else None,
        )
        os.close(end)
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def _read(self):
        while True:
            try:
                data = os.read(self.terminal, 65536)
            except OSError:  # how a terminal says that nothing writes to it any more
                return
            if not data:
                return
            self.written += data

    def resize(self, columns, rows):
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def shows(self, text):
        """Wait until it shows something from now on."""
        at = len(self.written)
        eventually(lambda: text.encode() in self.written[at:], lambda: bytes(self.written[-2000:]))

    def shown_lines(self):
        """Return the lines of the last picture."""
        picture = bytes(self.written).rpartition(b"\x1b[H")[2].decode()
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", picture).split("\r\n")

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(WAIT_S)
        self._reading.join(WAIT_S)
        os.close(self.terminal)


@pytest.fixture
def watch():
    started = []

    def start(*arguments, **more):
        started.append(Watching(*arguments, **more))
        return started[-1]

    yield start
    for each in started:
        each.end()


@pytest.fixture
def address(tmp_path):
    return f"unix://{tmp_path}/s"


def test_the_picture_survives_a_kill_of_the_daemon_and_a_smaller_window_and_ctrl_c_leaves_the_terminal_as_it_was(
    serve, watch, address
):
    first = serve("--listen", address).ready()
    watching = watch(address)
    watching.shows("no run is open")
    first.process.kill()
    first.wait()
    watching.shows("NO ANSWER for")
    serve("--listen", address, name="second").ready()
    watching.shows("the daemon was restarted")
    watching.resize(40, 5)
    eventually(lambda: 0 < max(map(len, watching.shown_lines())) <= 40, watching.shown_lines)
    assert len(watching.shown_lines()) <= 5
    os.write(watching.terminal, b"\x03")
    assert watching.process.wait(WAIT_S) == 0
    eventually(lambda: SHOW_CURSOR in watching.written and LEAVE in watching.written)
    assert watching.written.rindex(SHOW_CURSOR) > watching.written.rindex(b"\x1b[?25l")
    assert b"no run is open" in watching.written[watching.written.rindex(LEAVE) :]  # the last picture stays
    assert b"Traceback" not in watching.written


def test_sigterm_leaves_the_terminal_as_it_was_too(serve, watch, address):
    serve("--listen", address).ready()
    watching = watch(address)
    watching.shows("no run is open")
    watching.process.terminate()
    assert watching.process.wait(WAIT_S) == 128 + signal.SIGTERM
    eventually(lambda: SHOW_CURSOR in watching.written and LEAVE in watching.written)


@pytest.mark.parametrize(("on_terminal", "env"), [(False, {}), (True, {"NO_COLOR": "1"}), (True, {"TERM": "dumb"})])
def test_elsewhere_there_are_lines(serve, watch, address, on_terminal, env):
    serve("--listen", address).ready()
    watching = watch(address, on_terminal=on_terminal, **env)
    watching.shows("pid")
    watching.process.send_signal(signal.SIGINT)
    assert watching.process.wait(WAIT_S) == 0
    assert b"\x1b" not in watching.written
    assert watching.written.count(b", pid ") == 1


def test_programs_get_a_document_a_line(serve, watch, address):
    serve("--listen", address).ready()
    watching = watch(address, "--json", on_terminal=False)
    eventually(lambda: watching.written.count(b"\n") >= 2)
    watching.process.send_signal(signal.SIGINT)
    assert watching.process.wait(WAIT_S) == 0
    for line in bytes(watching.written).splitlines()[:2]:
        schemas.check("status", json.loads(line))


def test_without_a_daemon_it_ends_at_once(watch, address):
    watching = watch(address)
    assert watching.process.wait(WAIT_S) == 6
    eventually(lambda: b"no daemon answers" in watching.written)
