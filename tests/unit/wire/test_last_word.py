"""What a daemon that does not come back leaves beside its socket."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckptd.wire import last_word
from ckptd.wire.addresses import Address


def test_it_is_read_only_where_there_is_no_socket_and_until_the_next_daemon(tmp_path: Path) -> None:
    address = Address(path=str(tmp_path / "ckptd.sock"))
    assert last_word.read(address) == ""
    (tmp_path / "ckptd.sock").touch()
    last_word.leave(address, "another one attends")
    assert last_word.read(address) == ""
    (tmp_path / "ckptd.sock").unlink()
    assert last_word.read(address) == "another one attends"
    last_word.forget(address)
    assert last_word.read(address) == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["link", "directory", "control characters"])
def test_what_another_program_puts_there_does_no_harm(tmp_path: Path, kind: str) -> None:
    address, path = Address(path=str(tmp_path / "s")), tmp_path / f"s{last_word.SUFFIX}"
    match kind:
        case "link":
            path.symlink_to("/etc/passwd")
        case "directory":
            path.mkdir()
        case _:
            path.write_bytes(b"\x1b[31m\n" + b"x" * 10_000)
    found = last_word.read(address)
    assert found == "" if kind != "control characters" else found.isprintable() and len(found) < 2_000


def test_a_port_has_nothing_beside_it() -> None:
    address = Address(host="127.0.0.1", port=7070)
    last_word.leave(address, "why")
    assert last_word.read(address) == ""
