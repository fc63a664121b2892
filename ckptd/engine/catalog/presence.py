"""Telling "nothing is there" from "something else is there": a pipe or a broken link is not an absent file.

What reads a run as its owner must not take damage for an empty history.
"""

from __future__ import annotations

from contextlib import suppress

from ckptd.errors import CorruptionError, NotFoundError
from ckptd.format.state_file import MAX_SIZE_BYTES, CheckpointState
from ckptd.storage.base import Objects, Store
from ckptd.storage.capabilities import FileStore

NO_FILE = "what lies here is no file that can be read, but a pipe, a directory or a broken link"


def read_if_there(store: Objects, key: str, *, limit_bytes: int = 1 << 31) -> bytes | None:
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


def has_object(objects: Objects, key: str) -> bool:
    """Whether there is an object of this key."""
    try:
        objects.stat(key)
    except NotFoundError:
        return False
    return True


def is_taken(store: Objects, key: str) -> bool:
    """Whether anything at all has this key. Where only objects can have one, finding none is enough of an answer."""
    if not isinstance(store, FileStore):
        return False
    directory, _, name = key.rpartition("/")
    with suppress(NotFoundError):
        return name in store.names(directory)
    return False


def read_state(objects: Objects, key: str) -> CheckpointState | None:
    """Return what a state file says, its paths as they stand there; None when nothing has its key.

    Raises:
        CorruptionError: when it cannot be parsed, is longer than any state file, or what is there is no file.
    """
    data = read_if_there(objects, key, limit_bytes=MAX_SIZE_BYTES)
    return None if data is None else CheckpointState.decode(data, objects.location(key))


def check_directory(store: Store, directory: str) -> None:
    """Raise `CorruptionError` when something that is no directory is at a directory's place; it may be missing."""
    if not is_taken(store, directory) or not isinstance(store, FileStore):
        return
    try:
        store.names(directory)
    except NotFoundError as error:
        raise CorruptionError("this should be a directory", key=directory) from error
