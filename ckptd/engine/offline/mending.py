"""Move aside what keeps a run from being opened, and nothing else: the bytes stay there under another name.

Opening a run never does this by itself: a person requests it, with `ckptd repair`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from ckptd.engine.catalog import commit as durable
from ckptd.engine.catalog import epochs, presence, records
from ckptd.engine.catalog.root import LOCK_KEY
from ckptd.errors import CkptdError, ConflictError, CorruptionError, NotFoundError, NotPermittedError
from ckptd.format import names
from ckptd.format.crc32c import crc32c
from ckptd.storage.base import Store
from ckptd.storage.capabilities import FileStore
from ckptd.storage.keys import join, lock_file

_DAMAGE = (CorruptionError, NotPermittedError, NotFoundError)
_EPOCHS_AHEAD = 1000  # more than a run can have begun since: a lost epoch is not used twice


def make_room_for_records(store: Store, directory: str) -> list[str]:
    """Move aside files that stand where records, deleted indexes or the lock belong; return what was done."""
    return [
        *_checked(store, join(directory, records.DIRECTORY), presence.check_directory),
        *_checked(store, join(directory, records.ASIDE_DIRECTORY), presence.check_directory),
        *_checked(store, lock_file(join(directory, LOCK_KEY)), _check_lock),
    ]


def mend_records(store: Store, directory: str) -> list[str]:
    """Move damaged records and a damaged epoch aside, and write a new epoch; return what was done.

    The caller has the run's lock.
    """
    done = []
    for key in records.keys(store, directory):
        done += _checked(store, key, records.read)
    key = epochs.key_of(directory)
    try:
        epochs.stored(store, directory)
    except _DAMAGE as error:
        highest = max((record.epoch for record in records.load(store, directory).found), default=0)
        done.append(put_away(store, key, error))
        epochs.store(store, directory, highest + _EPOCHS_AHEAD)
    return done


def make_room_for_state(store: Store, key: str) -> list[str]:
    """Move aside what is at a state file's place, if it can't be a state file; return what was done."""
    return _checked(store, key, durable.look)


def put_away_unreadable(store: Store, directory: str) -> list[str]:
    """Move aside what has the name of an index or a shard but is not a file; return what was done."""
    if not isinstance(store, FileStore):
        return []
    done = []
    for name, is_directory in sorted(store.names(directory).items()):
        if not is_directory and (name.endswith(names.INDEX_SUFFIX) or names.parse_shard_key(name)):
            done += _checked(store, join(directory, name), lambda store, key: store.stat(key))
    return done


def _checked(store: Store, key: str, check: Callable[[Store, str], object]) -> list[str]:
    try:
        check(store, key)
    except _DAMAGE as error:
        return [put_away(store, key, error)]
    return []


def _check_lock(store: Store, key: str) -> None:
    if isinstance(store, FileStore) and presence.is_taken(store, key) and not store.is_file(key):
        raise CorruptionError("this should be a lock file", key=key)


def put_away(store: Store, key: str, why: CkptdError) -> str:
    """Rename what is at a key, durably, in the same directory; return what was done."""
    if isinstance(store, FileStore):
        away = store.put_away(key)
    else:
        data = store.get(key)
        away = f"{key}.before-{crc32c(data):08x}"
        with suppress(ConflictError):  # the same bytes were moved aside before
            store.put(away, data)
        store.delete([key])
    return f"{why}; it is now {away.rpartition('/')[2]}"
