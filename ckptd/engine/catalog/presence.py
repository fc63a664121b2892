"""Telling "nothing is there" from "something else is there": a pipe or a broken link is not an absent file.

What reads a run as its owner must not take damage for an empty history.
"""

from __future__ import annotations

from contextlib import suppress

from ckptd.errors import CorruptionError, NotFoundError
from ckptd.storage.base import Store
from ckptd.storage.capabilities import FileStore

NO_FILE = "what lies here is no file that can be read, but a pipe, a directory or a broken link"


def read_if_there(store: Store, key: str, *, limit_bytes: int = 1 << 31) -> bytes | None:
    """Return an object, None when nothing has its key.

    Raises:
        CorruptionError: when something else has it: a directory, a pipe, a device, a link that leads nowhere.
    """
    for _ in range(2):  # it may be put there between the two looks
        try:
            return store.get(key, limit_bytes=limit_bytes)
        except NotFoundError as error:
            if not is_taken(store, key):
                return None
            cause = error
    raise CorruptionError(NO_FILE, key=key) from cause


def is_taken(store: Store, key: str) -> bool:
    """Whether anything at all has this key. Where only objects can have one, finding none is enough of an answer."""
    if not isinstance(store, FileStore):
        return False
    directory, _, name = key.rpartition("/")
    with suppress(NotFoundError):
        return name in store.names(directory)
    return False


def check_directory(store: Store, directory: str) -> None:
    """Raise `CorruptionError` when something that is no directory lies at a directory's place; it may be missing."""
    if not is_taken(store, directory) or not isinstance(store, FileStore):
        return
    try:
        store.names(directory)
    except NotFoundError as error:
        raise CorruptionError("this should be a directory", key=directory) from error
