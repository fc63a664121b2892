"""Room set aside in a run, so that a full disk stops nobody who wants to remove something.

A removal is noted before it is done: in the record, and in the state file. On a full disk these notes have no room, and
the one thing that helps would be impossible. So every run keeps a small object that holds nothing. When a note finds no
room, it is written into that object's blocks; what it replaces is free then, and the reserve is made anew from it.

Only stores that can be full so (`SparingStore`: local disks) have one. It lies among the indexes of deleted
checkpoints, so that their directory exists, too, when one is moved there.
"""

from __future__ import annotations

import logging
from contextlib import suppress

from ckptd.errors import CkptdError, ConflictError, NotFoundError, StorageFullError
from ckptd.storage.base import ObjectStat, SparingStore, Store
from ckptd.storage.keys import join

KEY = ".ckptd/trash/reserve"
"""Where it lies, below its run."""

SIZE_BYTES = 64 << 10
"""Room for a state file that lists a thousand checkpoints."""

_log = logging.getLogger(__name__)


def keep(store: Store, run: str) -> None:
    """Make the reserve of a run if it is not there as it should be. Never raises: without room there is none."""
    if not isinstance(store, SparingStore):
        return
    key = join(run, KEY)
    try:
        with suppress(NotFoundError):
            if store.stat(key).size_bytes == SIZE_BYTES:
                return
            store.delete([key])
        writer = store.create(key, SIZE_BYTES)
        try:
            writer.write(0, bytes(SIZE_BYTES))  # not only reserved: some file systems find the blocks with the write
            writer.finish()
        except BaseException:
            writer.abort()
            raise
    except CkptdError as error:
        _log.debug("no room is set aside in %s: %s", store.location(run) if run else store.url, error)


def replace(store: Store, run: str, key: str, data: bytes, *, if_version: str | None = None) -> ObjectStat:
    """Replace a small object of a run as `Store.replace` does, in the room of the reserve if there is no other.

    Raises:
        StorageFullError: there is no room, and no reserve, or `data` is larger.
    """
    try:
        return store.replace(key, data, if_version=if_version)
    except StorageFullError as full:
        if not isinstance(store, SparingStore):
            raise
        try:
            stat = store.replace_within(join(run, KEY), key, data, if_version=if_version)
        except (NotFoundError, StorageFullError):
            raise full from None
        except ConflictError:
            if store.get(key) == data:  # the first try failed when its bytes were in place: that is what to tell
                raise full from None
            raise
        keep(store, run)
        return stat


def copy(store: Store, key: str, data: bytes, to: str) -> None:
    """Put the bytes of the object `key`, which are `data`, under a second key; on a full disk without a copy of them.

    What lies at `to` already has the same bytes: it was put there before a crash.
    """
    try:
        store.replace(to, data)
    except StorageFullError:
        if not isinstance(store, SparingStore):
            raise
        with suppress(ConflictError):
            store.link(key, to)
