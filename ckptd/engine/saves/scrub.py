"""A background scrub: every checkpoint is read again from time to time, slowly, before it is needed.

The one that was verified longest ago comes first. Damage is handled as everywhere: the owner of the run reads those
bytes again, and puts the checkpoint in quarantine.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptd.engine.journal import NO_JOURNAL, Journal, Measured, tell_figures
from ckptd.engine.reading.damage import Suspicion
from ckptd.engine.reading.verify import Report, verify
from ckptd.errors import CkptdError, NotFoundError
from ckptd.storage.base import AccessPattern, Objects, ObjectStat
from ckptd.storage.limited import RateLimit

if TYPE_CHECKING:
    from ckptd.engine.checkpoint import Checkpoint
    from ckptd.engine.saves.coordinator import Coordinator

_log = logging.getLogger("ckptd.engine")

_LEAST_PAUSE_S = 60.0  # before the next search for what is due, which reads every run
_MOST_PAUSE_S = 3600.0
_BY = "the scrub"


class LimitedObjects:
    """Objects that are read no faster than a limit allows."""

    def __init__(self, objects: Objects, limit: RateLimit) -> None:
        """Read from `objects`."""
        self._objects = objects
        self._limit = limit

    @property
    def access(self) -> AccessPattern:
        """See `Objects`."""
        return self._objects.access

    def get(self, key: str, *, limit_bytes: int = 1 << 31) -> bytes:
        """See `Objects`."""
        return self._objects.get(key, limit_bytes=limit_bytes)

    def read_into(self, key: str, offset: int, *into: memoryview) -> None:
        """See `Objects`. Bounded pieces, so that the rate is even."""
        for memory in into:
            view = memory.cast("B")
            at = 0
            while at < len(view):
                size = min(self._limit.step_bytes, len(view) - at)
                self._limit.take(size)
                self._objects.read_into(key, offset + at, view[at : at + size])
                at += size
            offset += len(view)

    def stat(self, key: str) -> ObjectStat:
        """See `Objects`."""
        return self._objects.stat(key)

    def location(self, key: str) -> str:
        """See `Objects`."""
        return self._objects.location(key)


@dataclass(frozen=True, slots=True)
class _Due:
    run: str
    checkpoint: Checkpoint

    @property
    def key(self) -> str:
        return f"{self.run}/{self.checkpoint.prefix.rpartition('/')[2]}"

    @property
    def read_at(self) -> float:
        """When it was last known to be intact: verified, or written."""
        return self.checkpoint.verified_at or self.checkpoint.saved_at


class Scrub:
    """Reads the checkpoints of a daemon's root again, in a thread of its own, until it is closed."""

    def __init__(
        self, coordinator: Coordinator, bytes_per_s: int, every_s: float, journal: Journal = NO_JOURNAL
    ) -> None:
        """Begin at once. `every_s` after it was last verified a checkpoint is due again.

        `journal` is told what was found, for figures.
        """
        self._coordinator, self._journal = coordinator, journal
        self._every_s = every_s
        self._end = threading.Event()
        limit = RateLimit(bytes_per_s, sleep=self._pause)
        self._objects = LimitedObjects(coordinator.store, limit)
        self._thread = threading.Thread(target=self._run, name="ckptd-scrub", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop. The read under way is given up."""
        self._end.set()
        self._thread.join()

    def _pause(self, seconds: float) -> None:
        if self._end.wait(seconds):
            raise _EndedError("the daemon ends")

    def _run(self) -> None:
        while not self._end.is_set():
            pause_s = _LEAST_PAUSE_S
            try:
                pause_s = self._pass_over_all()
            except _EndedError:
                return
            except CkptdError as error:
                _log.warning("the scrub must wait: %s", error)
            except Exception:
                _log.exception("a bug in ckptd disturbed the scrub")
            self._end.wait(pause_s)

    def _pass_over_all(self) -> float:
        """Read what is due, and return for how long nothing more will be due."""
        found = sorted(self._all(), key=lambda each: each.read_at)
        now = self._coordinator.clock.wall_s()
        for each in found:
            if each.read_at + self._every_s > now:
                break
            self._read(each)
        next_at = min((each.read_at + self._every_s for each in self._all()), default=now + self._every_s)
        least_s = min(_LEAST_PAUSE_S, self._every_s)
        return min(max(next_at - self._coordinator.clock.wall_s(), least_s), _MOST_PAUSE_S)

    def _all(self) -> Iterator[_Due]:
        for run in self._coordinator.stored_runs():
            if self._end.is_set():
                return
            try:
                found = self._coordinator.checkpoints(run)
            except CkptdError:
                continue  # it is quarantined as a whole, which is reported elsewhere
            # One that ckptd did not write has no record in which its verification could be noted.
            yield from (_Due(run, checkpoint) for checkpoint in found if checkpoint.save_id)

    def _read(self, due: _Due) -> None:
        save_id = due.checkpoint.save_id
        try:
            report = verify(self._objects, due.key)
            problem = next((each for each in report.problems if each.is_fatal), None)
            tell_figures(self._journal, "verify", due.run, lambda: _measured(report))
            if problem is None:
                self._coordinator.in_catalog(due.run, lambda stored: stored.note_verified(save_id))
                _log.debug("the scrub read %s: every checksum verifies", due.checkpoint.prefix)
                return
            suspicion = Suspicion(problem.key, problem.offset, problem.reason)
            self._coordinator.in_catalog(due.run, lambda stored: stored.check_damage(due.key, save_id, suspicion, _BY))
        except NotFoundError:
            pass  # it was deleted meanwhile
        except _EndedError:
            raise
        except CkptdError as error:
            _log.warning("the scrub could not read %s: %s", due.checkpoint.prefix, error)
            self._end.wait(1.0)


def _measured(report: Report) -> Measured:
    """Return how many tensors are corrupt; of an index that cannot be read, one."""
    fatal = [problem.tensor for problem in report.problems if problem.is_fatal]
    num_corrupt = len(set(fatal))
    found = {"ok": max(0, report.num_tensors - num_corrupt), "corrupt": num_corrupt}
    return Measured(report.size_bytes, tensors=found)


class _EndedError(CkptdError):
    """Internal: the scrub is closed. Never reported."""
