"""What a command reads of the lock in its way: the address of the daemon that holds it."""

from __future__ import annotations

import pytest

from ckptd.cli.keepers import address_of
from ckptd.errors import ConflictError
from ckptd.storage.lock_holder import LockHolder


@pytest.mark.parametrize("address", ["grpc://127.0.0.1:7070", "unix:///tmp/a:0", "127.0.0.1:8080"])
def test_a_lock_says_where_its_daemon_listens(address: str) -> None:
    holder = LockHolder.here("ckptd daemon", address)
    assert address_of(ConflictError("in use", actual=holder.line)) == address


@pytest.mark.parametrize(
    ("address", "note"),
    [
        ("grpc://127.0.0.1:0", "the lock does not say its port: pass --address"),
        ("", "it accepts no commands from other processes: wait until it has ended"),
    ],
)
def test_without_an_address_the_error_says_what_to_do(address: str, note: str) -> None:
    holder = LockHolder.here("ckptd daemon", address)
    with pytest.raises(ConflictError) as caught:
        address_of(ConflictError("in use", actual=holder.line))
    assert caught.value.__notes__ == [note]
