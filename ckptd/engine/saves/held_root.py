"""The root that a process has taken: its lock, its id, and which promises its store does not keep."""

from __future__ import annotations

import logging
import secrets

from ckptd.engine.catalog import root
from ckptd.engine.catalog.fence import Life
from ckptd.engine.catalog.root import LOCK_KEY
from ckptd.engine.journal import NO_JOURNAL, Journal, JournalEntry, Reserve
from ckptd.errors import ConflictError, InvalidRequestError, NotFoundError, NotPermittedError
from ckptd.storage.base import Lock, Store
from ckptd.storage.lock_holder import LockHolder

_log = logging.getLogger("ckptd.engine")


class HeldRoot:
    """The hold that one coordinator has on a root, or, in direct mode, on runs below it.

    Attributes:
        id: the word by which clients recognise the root; "" before `take`.
        life: of a daemon whose store has no locks; else None.
        warnings: which promises the store does not keep.
        holder: our name, as shown to processes that are refused.
    """

    def __init__(self, store: Store, *, owns_all: bool, takes_over: bool, holder: str | None) -> None:
        """Prepare to take the root of `store`; the arguments are those of `Coordinator`."""
        self._store, self._owns_all, self._takes_over = store, owns_all, takes_over
        self.holder = holder or LockHolder.here("ckptd").line
        self.id = ""
        self.life: Life | None = None
        self.warnings: tuple[str, ...] = ()
        self._lock: Lock | None = None

    def take(self, *, allow_unfenced: bool, journal: Journal = NO_JOURNAL) -> None:
        """Take the root; `ConflictError` names the daemon that holds it. `journal` is told of a take-over."""
        store = self._store
        try:
            self._lock = store.lock(
                LOCK_KEY, holder=self.holder, shared=not self._owns_all, takes_over=self._takes_over
            )
        except ConflictError as error:
            raise ConflictError(f"{store.url} is in use: a directory has one daemon", actual=error.actual) from error
        except NotFoundError as error:
            if not store.has_locks:
                raise  # only its owner can make a bucket
            raise NotPermittedError(f"{store.url} can't be made or written to") from error
        for former in self._lock.taken_from:
            entry = JournalEntry(
                "take-over", "taken from another owner", reserve=Reserve.HALF, details={"owner": former}
            )
            journal.ended(entry)
        if self._owns_all and self._lock.taken_at is not None:
            self.life = Life(secrets.token_hex(8), self._lock.taken_at)
        try:
            self._check_promises(allow_unfenced)
            self.id = root.read_or_make_id(store)
        except BaseException:
            self._lock.release()
            raise

    def _check_promises(self, allow_unfenced: bool) -> None:
        broken = self._store.broken_promises()
        if broken and not allow_unfenced:
            error = InvalidRequestError(
                f"{self._store.url} cannot keep a second owner out, so checkpoints could be lost; "
                "CKPTD_ALLOW_UNFENCED=1, or --allow-unfenced, goes on all the same"
            )
            for each in broken:
                error.add_note(each)
            raise error
        self.warnings = tuple(f"unfenced: {each}" for each in broken)
        for warning in self.warnings:
            _log.warning("%s: %s", self._store.url, warning)

    def lock_run(self, name: str) -> Lock | None:
        """Take one run, unless the root includes all its runs; then there is nothing to take."""
        if self._owns_all:
            return None
        return self._store.lock(f"{name}/{LOCK_KEY}", holder=self.holder, takes_over=self._takes_over)

    def release(self) -> None:
        """Release the root."""
        if self._lock is not None:
            self._lock.release()
