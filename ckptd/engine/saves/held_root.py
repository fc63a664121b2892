"""The root that a process has taken: its lock, its id, and which promises its store does not keep."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

from ckptd.engine.catalog import root
from ckptd.engine.catalog.fence import Life
from ckptd.engine.catalog.nesting import stores_above
from ckptd.engine.catalog.root import ID_KEY, LOCK_KEY
from ckptd.engine.journal import NO_JOURNAL, Journal, JournalEntry, Reserve
from ckptd.errors import ConflictError, InvalidRequestError, NotFoundError, NotPermittedError
from ckptd.storage.base import Lock, Store
from ckptd.storage.capabilities import FileStore
from ckptd.storage.keys import lock_file
from ckptd.storage.lock_holder import LockHolder

_log = logging.getLogger("ckptd.engine")


class HeldRoot:
    """The hold that one coordinator has on a root, or, in direct mode, on runs below it.

    Roots may lie inside one another, as ``/checkpoints`` and ``/checkpoints/vision``, and no run may have two owners
    all the same. So where the store has locks, whoever takes a root shares the locks of those above it, and whoever
    opens a run shares those of the roots between: a daemon holds its own alone, so it keeps the others out.

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
        self._above = ExitStack()

    def take(self, *, allow_unfenced: bool, journal: Journal = NO_JOURNAL) -> None:
        """Take the root; `ConflictError` names the daemon that holds it. `journal` is told of a take-over."""
        try:
            self._share_above()  # before anything is made here: where a daemon refuses us nothing is left behind
            self._take(allow_unfenced, journal)
        except BaseException:
            self.release()
            raise

    def _take(self, allow_unfenced: bool, journal: Journal) -> None:
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
        self._check_promises(allow_unfenced)
        self.id = root.read_or_make_id(store)

    def _share_above(self) -> None:
        """Keep daemons out of the roots around this one, but for those that we may not write to."""
        if not self._takes_locks:
            return  # in a bucket each run is fenced by itself
        for above in stores_above(self._store):
            try:
                above.stat(ID_KEY)
                self._above.enter_context(above.lock(LOCK_KEY, holder=self._guest, shared=True))
            except (NotFoundError, NotPermittedError):
                continue
            except ConflictError as error:
                raise ConflictError(
                    f"{self._store.url} is inside {above.url}, which is in use: a directory has one daemon",
                    actual=error.actual,
                ) from error

    @property
    def _takes_locks(self) -> bool:
        """Whether locks keep others out: all of them, or where hosts share a directory at least those of this host."""
        return self._store.has_locks or isinstance(self._store, FileStore)

    @property
    def _guest(self) -> str:
        """Our name in the lock of a root that is not ours: without the address, as we do not serve that root."""
        return replace(LockHolder.parse(self.holder), address="").line

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

    def lock_run(self, name: str) -> ExitStack | None:
        """Take one run, and return what releases it; None in a bucket whose runs are all ours by the fence.

        Where the root includes all its runs, only a run that was once locked by itself is: it may be again.

        Raises:
            ConflictError: another process has the run, or a root that is between ours and the run.
        """
        if self._owns_all and not self._takes_locks:
            return None
        with ExitStack() as stack:
            for between in self._roots_between(name):
                stack.enter_context(self._share_between(between))
            if not self._owns_all or _has_lock_file(self._store, name):
                lock = self._store.lock(f"{name}/{LOCK_KEY}", holder=self.holder, takes_over=self._takes_over)
                stack.enter_context(lock)
            held = stack.pop_all()
        return held

    def _share_between(self, between: str) -> Lock:
        try:
            return self._store.lock(f"{between}/{LOCK_KEY}", holder=self._guest, shared=True)
        except ConflictError as error:
            where = self._store.location(between)
            raise ConflictError(
                f"{where} is the root of another daemon, to which this run is left", actual=error.actual
            ) from error

    def _roots_between(self, name: str) -> Iterator[str]:
        if not self._takes_locks:
            return
        above = name
        while above := above.rpartition("/")[0]:
            try:
                self._store.stat(f"{above}/{ID_KEY}")
            except (NotFoundError, NotPermittedError, ConflictError):
                continue
            yield above

    def release(self) -> None:
        """Release the root."""
        self._above.close()
        if self._lock is not None:
            self._lock.release()


def _has_lock_file(store: Store, name: str) -> bool:
    """Whether the run, or its directory as a root, was ever locked by itself."""
    try:
        return isinstance(store, FileStore) and store.is_file(lock_file(f"{name}/{LOCK_KEY}"))
    except (NotFoundError, NotPermittedError, ConflictError):
        return False
