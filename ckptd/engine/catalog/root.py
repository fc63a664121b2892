"""What is at the top of a root: its lock, its id, and the runs below it."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress

from ckptd.errors import (
    CkptdError,
    ConflictError,
    CorruptionError,
    NotFoundError,
    NotPermittedError,
    StorageFullError,
)
from ckptd.storage.base import Store
from ckptd.storage.capabilities import FileStore
from ckptd.storage.keys import join

LOCK_KEY = ".ckptd/lock"
ID_KEY = ".ckptd/id"

_log = logging.getLogger(__name__)

_OURS = ".ckptd"
_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")


def read_or_make_id(store: Store) -> str:
    """Return the word by which a client knows this root again, when it finds the same one at a path of its own.

    A damaged one is replaced. Where none can be kept the word is new with every start: then clients do not recognize
    the root, and read through the daemon.
    """
    made = uuid.uuid4().hex
    try:
        known = read_id(store)
    except (CorruptionError, NotPermittedError) as error:
        _log.warning("%s: the id of the root is damaged, and replaced: %s", store.url, error)
        known = _noted(store, made, store.replace)
    return known or _noted(store, made, store.put)


def _noted(store: Store, made: str, write: Callable[[str, bytes], object]) -> str:
    """Note a new id, durably, if that can be; return the one that counts now."""
    try:
        write(ID_KEY, made.encode())
    except (ConflictError, StorageFullError, NotPermittedError) as error:
        with suppress(CorruptionError, NotPermittedError):
            known = read_id(store)  # another process may have been quicker
            if known is not None:
                return known
        _log.warning("%s: the root has no id that lasts, so clients read through the daemon: %s", store.url, error)
    return made


def read_id(store: Store) -> str | None:
    """Return the id of a root; None where none was noted yet, `CorruptionError` where it is none."""
    try:
        text = store.get(ID_KEY, limit_bytes=64).decode("ascii", "replace").strip()
    except NotFoundError:
        return None
    if not _ID.fullmatch(text):
        raise CorruptionError("this is not the id of a root", key=ID_KEY, actual=repr(text))
    return text


def stored_runs(store: Store) -> Iterator[str]:
    """Yield the runs below the root, by what their saves leave beside them. What cannot be looked at is left out."""
    if isinstance(store, FileStore):
        yield from _walk(store)
        return
    last = ""
    for stat in store.list(""):
        directory, marker, _ = stat.key.partition(f"/{_OURS}/")
        if marker and directory != last:
            yield directory
            last = directory


def is_stored(store: Store, run: str) -> bool:
    """Whether anything of a run is there."""
    if next(iter(store.list(run, deep=False)), None) is not None:
        return True
    return bool(store.keys(run)) or next(iter(store.list(join(run, _OURS))), None) is not None


def _walk(store: FileStore) -> Iterator[str]:
    directories = [""]
    while directories:
        directory = directories.pop()
        try:
            found = store.names(directory)
        except CkptdError as error:
            _log.warning("cannot list the runs below %s: %s", store.local_path(directory), error)
            continue
        if directory and _OURS in found:
            yield directory
        directories += [join(directory, name) for name in sorted(found, reverse=True) if found[name] and name != _OURS]
