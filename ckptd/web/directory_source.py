"""A directory or bucket of checkpoints as pages show it, without a daemon; see `ckptd.web.source.PageSource`.

The directory itself is a run, if checkpoints are in it, and so is each one below it that holds some. What is damaged or
not whole is shown as that. Nothing is written, and nothing is locked.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from ckptd.engine.catalog import lookalikes
from ckptd.engine.catalog.records import Record
from ckptd.engine.catalog.survey import Found, survey
from ckptd.engine.saves.views import RunView
from ckptd.errors import CkptdError, CorruptionError, NotFoundError
from ckptd.format.names import INDEX_SUFFIX, STATE_KEY
from ckptd.printable import printable
from ckptd.storage.base import Objects, Store
from ckptd.storage.keys import join
from ckptd.web import wording
from ckptd.web.source import About, Fact
from ckptd.wire import versions

MOST_LISTED = 100_000
"""Objects that are looked through for runs."""

_FRESH_S = 2.0
_LOOK_SHARE = 20.0  # so many times as long as looking took, nobody looks again


@dataclass(frozen=True, slots=True)
class _Looked:
    at: float  # monotonic
    again_at: float
    view: RunView


class DirectorySource:
    """See the module."""

    is_live = False

    def __init__(self, store: Store, label: str, now: Callable[[], float] = time.monotonic) -> None:
        """`store` is the directory; runs are shown as `label`, and as that with the directories below it."""
        self._store, self._label, self._now = store, label, now
        self._lock = threading.Lock()
        self._directories: dict[str, str] = {}
        self._listed_again_at = -1.0
        self._is_cut = False
        self._newest: str | None = None
        self._looked: dict[str, _Looked] = {}

    @property
    def objects(self) -> Objects:
        """See `PageSource`."""
        return self._store

    def key(self, run: str, label: str) -> str:
        """See `PageSource`."""
        return join(self._directory(run), label)

    def about(self, *, sees_all: bool) -> About:
        """See `PageSource`."""
        where = Fact("directory" if "://" not in self._store.url else "bucket", self._store.url)
        cut = (f"only the first {MOST_LISTED:,} objects were looked through for runs",) if self._is_cut else ()
        return About(versions.VERSION, socket.gethostname(), self._store.url, (where,), cut)

    def names(self) -> Sequence[str]:
        """See `PageSource`."""
        with self._lock:
            began = self._now()
            if began >= self._listed_again_at:
                self._directories = self._look_for_runs()
                self._listed_again_at = self._now() + max(_FRESH_S, _LOOK_SHARE * (self._now() - began))
            return sorted(self._directories)

    def _look_for_runs(self) -> dict[str, str]:
        stats = list(islice(self._store.list(""), MOST_LISTED))
        self._is_cut = len(stats) == MOST_LISTED
        found = {"": 0.0}
        for stat in stats:
            directory = stat.key.rpartition("/")[0]
            is_ours = any(part.startswith(".") for part in directory.split("/"))
            if stat.key.endswith(INDEX_SUFFIX) and not is_ours and not lookalikes.is_left_beside(stat.key):
                found[directory] = max(found.get(directory, 0.0), stat.modified_at)
        if len(found) > 1 and not found[""]:
            del found[""]
        self._newest = self._named(max(found, key=lambda directory: found[directory]))
        return {self._named(directory): directory for directory in found}

    def _named(self, directory: str) -> str:
        return join(self._label, directory) if directory else self._label

    def _directory(self, run: str) -> str:
        self.names()
        with self._lock:
            if run in self._directories:
                return self._directories[run]
        raise NotFoundError(f"there is no directory {printable(run, limit=200)!r} with checkpoints in it")

    def runs(self) -> Sequence[RunView]:
        """See `PageSource`. It is one at most, that of the newest checkpoint: to look at all takes too long."""
        self.names()
        with self._lock:
            newest = self._newest
        return [] if newest is None else [self.run(newest)]

    def run(self, name: str) -> RunView:
        """See `PageSource`. What was found is good for two seconds, or longer where looking takes long."""
        directory = self._directory(name)
        with self._lock:
            looked = self._looked.get(name)
        began = self._now()
        if looked is not None and began < looked.again_at:
            return looked.view
        view = self._look(name, directory)
        after = self._now()
        with self._lock:
            self._looked[name] = _Looked(after, after + max(_FRESH_S, _LOOK_SHARE * (after - began)), view)
        return view

    def _look(self, name: str, directory: str) -> RunView:
        problems: tuple[str, ...] = ()
        try:
            found = survey(self._store, directory)
        except CorruptionError as error:
            problems = (f"{join(directory, STATE_KEY)} is damaged, `ckptd repair` mends it: {error}",)
            found = survey(self._store, directory, None)
        except CkptdError as error:
            raise NotFoundError(f"{name!r} cannot be listed: {error}") from error
        whole = tuple(each.checkpoint for each in found if each.problem is None)
        latest = next((each.checkpoint for each in found if each.is_latest and each.problem is None), None)
        damaged = tuple(_as_record(directory, each) for each in found if each.problem is not None)
        return replace(
            RunView.at_rest(name, problems=problems),
            checkpoints=tuple(sorted(whole, key=lambda each: (each.saved_at, each.step or 0))),
            num_checkpoints=len(whole),
            latest=latest,
            damaged=damaged,
        )


def _as_record(directory: str, found: Found) -> Record:
    """Return a checkpoint that is not whole as pages know those in quarantine."""
    checkpoint, problem = found.checkpoint, found.problem
    assert problem is not None
    return Record(
        save_id=checkpoint.save_id or "unknown",
        sequence=0,
        run=directory,
        name="",
        step=checkpoint.step,
        prefix=wording.last_part(checkpoint.prefix),
        shard_sizes=(checkpoint.size_bytes,),
        began_at=checkpoint.saved_at,
        saved_at=checkpoint.saved_at,
        quarantine=problem.reason,
    )
