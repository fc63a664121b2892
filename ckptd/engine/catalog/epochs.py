"""The number of a run's membership, kept in the store: no life of the daemon gives one out twice."""

from __future__ import annotations

from ckptd.engine.catalog import reserve
from ckptd.engine.catalog.presence import read_if_there
from ckptd.errors import CorruptionError
from ckptd.storage.base import Store
from ckptd.storage.keys import join

MAX_EPOCH = 1 << 53
_MAX_DIGITS = 16


def key_of(run: str) -> str:
    """Return where a run's epoch is."""
    return join(run, ".ckptd/epoch")


def stored(store: Store, run: str) -> int:
    """Return the epoch that a run has reached, 0 for none.

    Raises:
        CorruptionError: when what is there is no epoch.
    """
    key = key_of(run)
    text = read_if_there(store, key, limit_bytes=64)
    if text is None:
        return 0
    if not (text.isdigit() and len(text) <= _MAX_DIGITS and int(text) < MAX_EPOCH):
        raise CorruptionError("this is not an epoch", key=key, actual=repr(text))
    return int(text)


def store(store: Store, run: str, epoch: int) -> None:
    """Note an epoch, durably."""
    reserve.replace(store, run, key_of(run), str(epoch).encode())
