"""A socket is taken over from a daemon that has ended, or is just ending."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from ckptd.errors import ConflictError
from ckptd.service.sockets import listen_at


def _listening(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


def _listens(path: Path, listener: socket.socket) -> bool:
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))
        listener.accept()[0].close()
    return True


def test_what_a_dead_process_has_left_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    _listening(path).close()
    with listen_at(path, 0o600, "--listen") as listener:
        assert _listens(path, listener)


def test_one_that_is_ending_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = _listening(path)

    def end() -> None:
        first.accept()[0].close()  # the next one has looked once, and found it there
        path.unlink()
        first.close()

    ending = threading.Thread(target=end)
    ending.start()
    with listen_at(path, 0o600, "--listen") as listener:
        ending.join()
        assert _listens(path, listener)


def test_what_is_no_socket_stays(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("mine")
    with pytest.raises(ConflictError, match="it is no socket"):
        listen_at(tmp_path / "s", 0o600, "--listen")
    assert (tmp_path / "s").read_text() == "mine"
