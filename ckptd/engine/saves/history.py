"""The history of a daemon's saves: heard from the journal, kept in the store by a thread of its own.

A save is never held up by it, and never fails because of it: what cannot be written now is written later, and after a
kill the last moments may be missing. Between two writes some time passes, so that a save does not cost a write, or in a
bucket a request, of its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from ckptd.engine.catalog import past_saves
from ckptd.engine.catalog.past_saves import PastSave
from ckptd.engine.journal import BEGUN, JournalEntry, Measured, outcome_of_save
from ckptd.errors import CkptdError, ConflictError, NotFoundError
from ckptd.storage.base import Store

_log = logging.getLogger("ckptd.engine")

_MOST_RUNS = 64  # in memory, of those that are written
_MOST_STALLS = 1000  # of saves that have not ended
_PAUSE_S, _PAUSE_IN_BUCKET_S = 1.0, 30.0
_AGAIN_S = 30.0  # after a failure
_MOST_AT_END_S = 5.0
_TRIES = 3


@dataclass(slots=True)
class _Run:
    """What is known of one run. `stored` are the saves that were there before; None: not read yet."""

    ours: list[PastSave] = field(default_factory=list)
    stored: list[PastSave] | None = None
    version: str | None = None  # of the object that was read, or written last; None: there is none
    is_written: bool = True

    def saves(self) -> list[PastSave]:
        return past_saves.merged(self.stored or (), self.ours)


class History:
    """A `Journal` that keeps what became of saves; see the module. Any thread may use it."""

    complaint = ""

    def __init__(
        self, wall_s: Callable[[], float] = time.time, *, pause_s: float | None = None, again_s: float = _AGAIN_S
    ) -> None:
        """Keep it in memory, until `begin`.

        Args:
            wall_s: the time of day.
            pause_s: how long it gathers before it writes; None: a second, and half a minute in a bucket.
            again_s: how long after a failure it tries again.
        """
        self._wall_s, self._pause_s, self._again_s = wall_s, pause_s, again_s
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._end = threading.Event()
        self._runs: OrderedDict[str, _Run] = OrderedDict()  # the one that was used last at the end
        self._stalls: OrderedDict[tuple[str, str], PastSave] = OrderedDict()  # that came before the end of their saves
        self._store: Store | None = None
        self._complained: set[str] = set()
        self._thread: threading.Thread | None = None

    def begin(self, store: Store) -> None:
        """Keep it in this store from now on."""
        self._store = store
        self._thread = threading.Thread(target=self._keep, name="ckptd-history", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what is not written yet, as far as the store takes it within a few seconds. May be repeated."""
        self._end.set()
        self._news.set()
        if self._thread is not None:
            self._thread.join(_MOST_AT_END_S)

    # As a journal.

    def begins(self, entry: JournalEntry) -> None:
        """See `Journal`."""

    def ended(self, entry: JournalEntry) -> None:
        """See `Journal`: saves are kept, and how long training stood still for them."""
        if entry.event == "stall" and entry.measured is not None:
            self._stalled(entry.run, str(entry.details.get("save_id", "")), dict(entry.measured().stall_s))
        elif entry.event == "save" and entry.outcome != BEGUN:
            self._saved(entry)

    def _saved(self, entry: JournalEntry) -> None:
        told = entry.details
        measured = Measured(0) if entry.measured is None else entry.measured()
        save = PastSave(
            str(told.get("save_id", "")),
            entry.step,
            outcome_of_save(entry),
            self._wall_s() - measured.seconds,
            measured.seconds,
            str(told.get("prefix", "")),
            measured.size_bytes,
            measured.world_size,
            dict(measured.phases_s),
            dict(measured.received_bytes),
            lag_s=measured.lag_s,
            slowest_rank=measured.slowest_rank,
            last_to_declare=measured.last_to_declare,
            error=str(told.get("error", "")),
            reason=str(told.get("reason", "")),
        )
        with self._lock:
            early = self._stalls.pop((entry.run, save.save_id), None)
            run = self._run(entry.run)
            run.ours.append(save if early is None else save.with_stall(early.stall_s))
            del run.ours[: -past_saves.MOST_SAVES]
            run.is_written = False
        self._news.set()

    def _stalled(self, name: str, save_id: str, stall_s: dict[str, float]) -> None:
        if not save_id:
            return  # an older client does not say which
        with self._lock:
            run = self._runs.get(name)
            number = next((n for n, each in enumerate(run.ours) if each.save_id == save_id), None) if run else None
            if run is None or number is None:
                known = self._stalls.pop((name, save_id), None) or PastSave(save_id, None, "", 0.0, 0.0)
                self._stalls[name, save_id] = known.with_stall(stall_s)
                while len(self._stalls) > _MOST_STALLS:
                    self._stalls.popitem(last=False)
                return
            told = run.ours[number].with_stall(stall_s)
            if told is not run.ours[number]:
                run.ours[number] = told
                run.is_written = False
                self._news.set()

    def _run(self, name: str) -> _Run:
        run = self._runs.setdefault(name, _Run())
        self._runs.move_to_end(name)
        written = [each for each in self._runs if self._runs[each].is_written and each != name]
        for each in written[: max(0, len(self._runs) - _MOST_RUNS)]:
            del self._runs[each]
        return run

    # For readers.

    @property
    def in_memory(self) -> tuple[int, int]:
        """How many runs are in memory, and how many stalls of saves that have not ended."""
        with self._lock:
            return len(self._runs), len(self._stalls)

    def saves(self, run: str) -> list[PastSave]:
        """Return the saves of a run that have ended, oldest first, at most `past_saves.MOST_SAVES`. Blocks.

        Raises:
            CkptdError: the store does not answer.
        """
        with self._lock:
            known = self._runs.get(run)
            if known is not None and known.stored is not None:
                return known.saves()
        stored = [] if self._store is None else past_saves.read(self._store, run)
        with self._lock:
            known = self._runs.get(run)
            return past_saves.merged(stored, [] if known is None else known.ours)

    # The thread.

    def _keep(self) -> None:
        store = self._store
        assert store is not None
        pause_s = self._pause_s
        if pause_s is None:
            pause_s = _PAUSE_S if store.has_locks else _PAUSE_IN_BUCKET_S
        while not self._end.is_set():
            self._news.wait()
            self._end.wait(pause_s)
            self._news.clear()
            if not self._write_all(store) and not self._end.wait(self._again_s):
                self._news.set()
        self._write_all(store)

    def _write_all(self, store: Store) -> bool:
        with self._lock:
            waiting = [name for name, run in self._runs.items() if not run.is_written]
        written = [self._write(store, name) for name in waiting]  # one that fails keeps no other from it
        return all(written)

    def _write(self, store: Store, name: str) -> bool:
        try:
            for _ in range(_TRIES):
                if self._try_to_write(store, name):
                    self._complained.discard(name)
                    return True
            why = "another owner of the run writes it as well"
        except CkptdError as error:
            why = str(error)
        except Exception as error:  # a bug here must not end the thread, nor a save
            _log.exception("a bug in ckptd: the history of %s cannot be kept", name)
            why = repr(error)
        if name not in self._complained:
            self._complained.add(name)
            _log.warning("the history of %s cannot be kept now, and is tried again: %s", name, why)
        return False

    def _try_to_write(self, store: Store, name: str) -> bool:
        """Write it, unless another owner has written since it was read: then read that."""
        key = past_saves.key_of(name)
        with self._lock:
            run = self._runs[name]
            is_read = run.stored is not None
        if not is_read:
            version = _version_of(store, key)
            stored = past_saves.read(store, name)
            with self._lock:
                run.stored, run.version = stored, version
        with self._lock:
            saves, run.is_written = run.saves(), True
        data = past_saves.encode(saves)
        try:
            if run.version is None:
                version = store.put(key, data).version
            else:
                version = store.replace(key, data, if_version=run.version).version
        except BaseException as error:
            with self._lock:
                run.is_written, run.stored = False, None
            if isinstance(error, ConflictError | NotFoundError):  # it is another's now, or was removed
                return False
            raise
        with self._lock:
            run.version = version
        return True


def _version_of(store: Store, key: str) -> str | None:
    try:
        return store.stat(key).version
    except NotFoundError:
        return None
