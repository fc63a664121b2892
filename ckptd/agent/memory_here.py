"""What is in memory of published saves: of this host, which tells its coordinator, and of others, which it asks for.

Memory is lent to ranks of this host (`LentMemory`). What they overwrite, and what is no checkpoint any more, is offered
no longer: the coordinator is told whenever that changes, and again from time to time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from ckptd.engine.hosts.memories import MOST_SAVES, NEWEST, InMemory, LentMemory, Where
from ckptd.errors import CkptdError
from ckptd.format.names import parse_shard_key

_log = logging.getLogger("ckptd.agent")

TELL_AGAIN_S = 30.0
_TRY_AGAIN_S = 1.0
_KNOWN_S = 5.0  # how long it is believed where parts of a checkpoint are
_DISTRUSTED_S = 600.0
_MOST_KNOWN = 64
_NOBODY = Where("", {})

Tell = Callable[[Sequence[InMemory]], Sequence[str]]
"""Tells the coordinator all that is in memory here; returns the saves among these that are no checkpoints any more."""


class MemoryHere:
    """See the module. Any thread may use it.

    Attributes:
        lent: the memory; None before any is lent.
    """

    def __init__(
        self,
        host: str,
        where: Callable[[str], Where],
        tell: Tell,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Hold nothing yet.

        Args:
            host: of this agent.
            where: returns which hosts have a checkpoint of this prefix in memory, as the coordinator knows it.
            tell: see there.
            now: seconds on a forward-only clock.
        """
        self.lent: LentMemory | None = None
        self._host, self._ask, self._tell, self._now = host, where, tell, now
        self._lock, self._asking, self._telling = threading.Lock(), threading.Lock(), threading.Lock()
        self._known: OrderedDict[str, tuple[Where, float]] = OrderedDict()  # by prefix
        self._distrusted: dict[str, float] = {}  # data files that were found damaged, and until when
        self._told: tuple[int, int] | None = None  # in which term, and which state of the memory
        self._told_anything = False
        self._tell_at = 0.0

    # What is here

    def tick(self, term: int | None, submit: Callable[..., None]) -> None:
        """Let the coordinator of `term`, None while there is none, be told on a worker if it has to be."""
        if term is None or self.lent is None or (now := self._now()) < self._tell_at:
            return
        if self._told == (term, self.lent.changes) and (not self._told_anything or now < self._tell_at + TELL_AGAIN_S):
            return
        self._tell_at = now + _TRY_AGAIN_S
        submit(self.tell_now, term)

    def tell_now(self, term: int) -> None:
        """Tell the coordinator what is here, and end the offers of what it says is gone."""
        lent = self.lent
        if lent is None or not self._telling.acquire(blocking=False):
            return
        try:
            changes, saves = lent.changes, self._held(lent)
            gone = self._tell(saves)
            for each in saves:
                if each.save in gone:
                    lent.drop(each.run, [each.save])
            self._told, self._told_anything = (term, changes), bool(saves)
            self._tell_at = self._now()
        except CkptdError as error:
            _log.debug("the coordinator was not told what is in memory: %s", error)
        finally:
            self._telling.release()

    @staticmethod
    def _held(lent: LentMemory) -> list[InMemory]:
        """Return the newest saves of each run."""
        by_run: dict[str, list[InMemory]] = {}
        for run, save, sizes in lent.held_shards():
            shards = {found[1]: size for key, size in sizes.items() if (found := parse_shard_key(key)) is not None}
            by_run.setdefault(run, []).append(InMemory(run, save, shards))
        return [each for saves in by_run.values() for each in saves[-NEWEST:]][-MOST_SAVES:]

    def read(self, key: str, offset: int, into: memoryview, save: str | None = None) -> list[tuple[int, int]]:
        """Fill `into` with what is here of a data file; return begin and end, in `into`, of what is not.

        `save`: of which save; by default the one whose checkpoint is there now.
        """
        lent, run = self.lent, key.rpartition("/")[0]
        if lent is None:
            return [(0, len(into))]
        if save is None:
            where = self._where(key)
            if self._host not in where.holders:
                return [(0, len(into))]
            save = where.save
        return lent.read_held(run, save, key, offset, into)

    def has_here(self, key: str) -> bool:
        """Whether anything of a data file's checkpoint is in memory here."""
        return self.lent is not None and self._host in self._where(key).holders

    # What is elsewhere

    def holders(self, key: str) -> tuple[str, list[str]]:
        """Return the save that a data file is of, and the other hosts that have parts of it, most of it first."""
        where, found = self._where(key), parse_shard_key(key)
        others = [] if found is None else [host for host in where.holders_of(found[1]) if host != self._host]
        return where.save, others

    def needs_nobody(self, key: str) -> bool:
        """Whether no other host is asked for a data file: this one has most of it, or copies were found damaged."""
        if self._is_distrusted(key):
            return True
        found = parse_shard_key(key)
        return self.lent is not None and found is not None and self._host in self._where(key).holders_of(found[1])[:1]

    def distrust(self, key: str) -> None:
        """Read a data file from no memory for a while, if any was read: a reader found it damaged. Asks nobody."""
        found = parse_shard_key(key)
        with self._lock:
            known = None if found is None else self._known.get(found[0])
            if known is None or not known[0].holders:
                return
            if len(self._distrusted) >= _MOST_KNOWN:
                self._distrusted.clear()
            self._distrusted[key] = self._now() + _DISTRUSTED_S

    def _is_distrusted(self, key: str) -> bool:
        with self._lock:
            return self._distrusted.get(key, 0.0) > self._now()

    def _where(self, key: str) -> Where:
        found = parse_shard_key(key)
        if found is None:
            return _NOBODY
        if self._is_distrusted(key):
            return _NOBODY
        with self._lock:
            known = self._known.get(found[0])
        if known is not None and self._now() - known[1] <= _KNOWN_S:
            return known[0]
        with self._asking:  # one asks, and the others take its answer
            with self._lock:
                known = self._known.get(found[0])
            if known is not None and self._now() - known[1] <= _KNOWN_S:
                return known[0]
            try:
                where = self._ask(found[0])
            except CkptdError as error:
                _log.info("which hosts have %s in memory is not known: %s", found[0], error)
                where = _NOBODY
            with self._lock:
                self._known[found[0]] = where, self._now()
                self._known.move_to_end(found[0])
                while len(self._known) > _MOST_KNOWN:
                    self._known.popitem(last=False)
            return where
