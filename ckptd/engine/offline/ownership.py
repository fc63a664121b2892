"""Own one run for a moment, from outside: for commands that pin and delete where no daemon does it for them.

The locks are those that daemons and direct mode take, so none of them works on the run meanwhile: exclusively the
run's own, and shared the one of every root above it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from ckptd.engine.catalog import records, survey
from ckptd.engine.catalog.catalog import Catalog
from ckptd.engine.catalog.nesting import stores_above
from ckptd.engine.catalog.records import Record
from ckptd.engine.catalog.retention import RetentionPolicy
from ckptd.engine.catalog.root import ID_KEY, LOCK_KEY
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.clock import SystemClock
from ckptd.engine.offline import foreign
from ckptd.errors import ConflictError, NotFoundError
from ckptd.storage.base import Lock, Store
from ckptd.storage.lock_holder import LockHolder


@contextmanager
def owned(store: Store, holder: str, *, takes_over: bool = False) -> Iterator[None]:
    """Keep every other owner away from the directory that is `store`'s root while the block runs.

    Raises:
        ConflictError: when another process owns it, with the holder's line in `actual`.
        NotPermittedError: when we may not write there.
    """
    with roots_kept(store, holder, takes_over=takes_over), _lock(store, holder, False, takes_over):
        yield


@contextmanager
def roots_kept(store: Store, holder: str, *, takes_over: bool = False) -> Iterator[None]:
    """Keep daemons away from every root above the one of `store` while the block runs; raises as `owned`."""
    with ExitStack() as stack:
        for root in roots_above(store):
            stack.enter_context(_lock(root, holder, True, takes_over))
        yield


@contextmanager
def unowned(store: Store, holder: str) -> Iterator[None]:
    """Keep owners away while the block runs, for writers that own no run; nothing is left behind.

    Any number of such writers may work at once: they are not ckptd's trainers, and take care of their own conflicts.

    Raises:
        ConflictError: when another process owns the directory that is `store`'s root; its line is in `actual`.
    """
    with roots_kept(store, holder), ExitStack() as stack:
        if store.keys(records.DIRECTORY):  # elsewhere ckptd has never had a run
            stack.enter_context(_lock(store, holder, True, False))
        yield


def roots_above(store: Store) -> Iterator[Store]:
    """Yield the stores above one that a daemon or direct mode has used as its root, the nearest first."""
    for above in stores_above(store):
        try:
            above.stat(ID_KEY)
        except NotFoundError:
            continue
        yield above


def set_pinned(store: Store, key: str, pinned: bool) -> Checkpoint:
    """Pin the checkpoint `key`, directly in the root of `store`, or no longer. The caller owns that directory.

    Raises:
        ConflictError: when ckptd did not write it: then ckptd would never delete it anyway.
    """
    catalog = _catalog(store, _record(store, key))
    return catalog.edits.pin(key) if pinned else catalog.edits.unpin(key)


def delete(store: Store, key: str, *, even_latest: bool = False, even_foreign: bool = False) -> None:
    """Delete the checkpoint `key`, directly in the root of `store`. The caller owns that directory.

    Raises:
        ConflictError: when it is pinned; the latest, unless `even_latest`; not ours, unless `even_foreign`.
    """
    if even_foreign and key not in survey.records_by_prefix(store, ""):
        foreign.delete(store, key, even_latest=even_latest)
    else:
        _catalog(store, _record(store, key)).edits.delete(key, even_latest=even_latest, for_good=True)


def undelete(store: Store, key: str) -> Checkpoint:
    """Bring back the checkpoint `key` that a daemon or a trainer deleted, until it is swept.

    Raises:
        NotFoundError: when nothing of the kind can be brought back.
    """
    deleted = [each for each in records.load(store, "").found if each.prefix == key and each.deleted_at is not None]
    if not deleted:
        raise NotFoundError("this was not deleted lately in a way that can be undone", key=key)
    return _catalog(store, deleted[-1]).edits.undelete(key)


def _record(store: Store, key: str) -> Record:
    of_it = survey.records_by_prefix(store, "").get(key)
    if not of_it:
        raise ConflictError("ckptd did not write this checkpoint", key=key)
    return of_it[-1]


def _catalog(store: Store, record: Record) -> Catalog:
    """Return the catalog that a checkpoint is in, after recovery: what a crash left is completed or swept.

    Retention does not run here, because its rule belongs to the trainer. Deletions are for good: there may be no
    later start that sweeps them.
    """
    keep_all = RetentionPolicy(max_to_keep=sys.maxsize)
    catalog = Catalog(
        store,
        "",
        clock=SystemClock(),
        policy=keep_all,
        latest_filename=record.latest_filename,
        undo_s=math.inf,  # the owner also decides how long a deletion can be undone
        holder=LockHolder.here("a ckptd command").line,
    )
    catalog.upkeep.recover()
    return catalog


def _lock(store: Store, holder: str, shared: bool, takes_over: bool) -> Lock:
    try:
        return store.lock(LOCK_KEY, holder=holder, shared=shared, takes_over=takes_over)
    except ConflictError as error:
        how = "in use" if store.has_locks else error.reason
        raised = ConflictError(f"{store.url} is {how}", actual=error.actual)
        raised.may_take_over = error.may_take_over
        raise raised from error
