"""Room set aside in a run, so that something can be removed on a full disk.

A removal is noted before it is done: in the record, and in the state file. On a full disk these notes have no room, and
the one thing that helps would be impossible. So every run keeps a few small objects that hold nothing. A note without
room is written into the blocks of one; the space of the replaced file becomes the new reserve.

Only stores that can be full so (`SparingStore`: local disks) have one. It is among the indexes of deleted
checkpoints, so that their directory exists, too, when one is moved there.
"""

from __future__ import annotations

import logging
from contextlib import suppress

from ckptd.errors import CkptdError, ConflictError, NotFoundError, StorageFullError
from ckptd.storage.base import ObjectStat, SparingStore, Store
from ckptd.storage.keys import join

KEYS = tuple(f".ckptd/trash/reserve-{number}" for number in range(4))
"""Where it is, below its run, in parts: each serves one note, as other programs may take what the last one freed."""

PART_BYTES = 32 << 10
"""Room for a state file that lists five hundred checkpoints."""

_log = logging.getLogger(__name__)


def keep(store: Store, run: str, *, parts: int = len(KEYS)) -> None:
    """Create this number of parts of a run's reserve, if they are missing or wrong. Never raises.

    What finds no room is not made; the next call tries again.
    """
    if not isinstance(store, SparingStore):
        return
    try:
        for key in (join(run, name) for name in KEYS[:parts]):
            with suppress(NotFoundError):
                if store.stat(key).size_bytes == PART_BYTES:
                    continue
                store.delete([key])
            store.create(key, PART_BYTES).finish()  # reserved, not written: btrfs finds other blocks for a second write
    except CkptdError as error:
        _log.debug("no room is set aside in %s: %s", store.location(run) if run else store.url, error)


def replace(store: Store, run: str, key: str, data: bytes, *, if_version: str | None = None) -> ObjectStat:
    """Replace a small object of a run as `Store.replace` does, in the room of the reserve if there is no other.

    Raises:
        StorageFullError: there is no room, and no reserve, or `data` is larger than a part of it.
    """
    try:
        return store.replace(key, data, if_version=if_version)
    except StorageFullError as full:
        if not isinstance(store, SparingStore):
            raise
        for part in KEYS:
            with suppress(NotFoundError, StorageFullError):
                try:
                    stat = store.replace_within(join(run, part), key, data, if_version=if_version)
                except ConflictError:
                    if store.get(key) == data:  # the first try failed when its bytes were in place: tell that
                        raise full from None
                    raise
                keep(store, run)
                return stat
        raise


def copy(store: Store, key: str, data: bytes, to: str) -> None:
    """Put the bytes of the object `key`, which are `data`, under a second key; on a full disk without a copy of them.

    What is at `to` already has the same bytes: it was put there before a crash.
    """
    try:
        store.replace(to, data)
    except StorageFullError:
        if not isinstance(store, SparingStore):
            raise
        with suppress(ConflictError):
            store.link(key, to)
