"""Which coordinator a root has: a *term*, raised by conditional writes of one small object.

Each life of a coordinator takes a term above all before it. The object also says where that coordinator is reached: a
hint for agents, and no more. Whether a coordinator may still sweep or publish it looks up here, just before.

An answer may be lost after the write took effect; then the store refuses the repetition, because the object has
changed. So every write carries the random word of its owner: what is in place tells whether it was ours.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from ckptd.engine.catalog import records
from ckptd.engine.catalog.commit import OnStep, SeenState, ignore_step
from ckptd.engine.clock import Clock
from ckptd.errors import ConflictError, CorruptionError, NotFoundError, UnavailableError
from ckptd.storage.base import ObjectStat, Store

KEY = f"{records.DIRECTORY}/coordinator"
"""Where it is, below the root."""

_MOST_BYTES = 64 << 10
_MOST_ATTEMPTS = 10  # at an object that other coordinators take again and again


@dataclass(frozen=True, slots=True)
class TermNote:
    """What the object says.

    Attributes:
        term: of the coordinator that wrote it.
        owner: the random word of that coordinator's life.
        holder: the same, in words.
        addresses: where it is reached, the best first.
    """

    term: int
    owner: str
    holder: str = ""
    addresses: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """Return it as one JSON object, keys sorted."""
        fields = {
            "term": self.term,
            "owner": self.owner,
            "holder": self.holder,
            "addresses": list(self.addresses),
        }
        return (json.dumps(fields, sort_keys=True) + "\n").encode()

    @classmethod
    def decode(cls, data: bytes) -> TermNote:
        """Read it.

        Raises:
            CorruptionError: if it is none.
        """
        try:
            fields = json.loads(data)
            term, owner, holder, addresses = (fields[name] for name in ("term", "owner", "holder", "addresses"))
        except (ValueError, TypeError, KeyError, RecursionError):
            term, owner, holder, addresses = None, None, None, None
        if type(term) is not int or not 0 < term < 1 << 53 or not isinstance(owner, str) or not isinstance(holder, str):
            raise CorruptionError(
                "this does not say which coordinator the root has; delete it, and start again", key=KEY
            )
        if not isinstance(addresses, list) or not all(isinstance(each, str) for each in addresses):
            raise CorruptionError(
                "it does not say where the coordinator of the root is; delete it and start again", key=KEY
            )
        return cls(term, owner, holder, tuple(addresses))


def look(store: Store) -> TermNote | None:
    """Return which coordinator a root has; None when none has ever taken it."""
    return _look(store)[0]


def _look(store: Store) -> tuple[TermNote | None, SeenState]:
    try:
        # The version first: if it is replaced in between, we hold an old version, and replacing fails.
        version = store.stat(KEY).version
        data = store.get(KEY, limit_bytes=_MOST_BYTES)
    except NotFoundError:
        return None, SeenState()
    return TermNote.decode(data), SeenState(data, version)


class Term:
    """The term of one life of a coordinator. Once `take` has returned, any thread may use it.

    Attributes:
        number: the term, 0 before `take`.
        is_fenced: whether another coordinator was seen in its place; that is final.
        other_owner: that one, in words; "" while the root is ours.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        holder: str = "",
        addresses: Sequence[str] = (),
        on_step: OnStep = ignore_step,
    ) -> None:
        """Nothing is read or written yet. `holder` names this coordinator to those that it fences off."""
        self.number = 0
        self.is_fenced = False
        self._store, self._clock, self._on_step = store, clock, on_step
        self._owner = secrets.token_hex(16)
        self._holder, self._addresses = holder, tuple(addresses)
        self._confirmed_at = 0.0  # forward-only clock
        self.other_owner = ""

    @property
    def holder(self) -> str:
        """This coordinator, in words."""
        return self._holder

    def take(self, above: int = 0) -> int:
        """Take a term that is higher than that of every coordinator before, and than `above`; return it.

        Durable on return. From then on every other coordinator finds itself fenced off, when it looks.

        Raises:
            UnavailableError: the store does not answer, or others keep taking it: try again.
            CorruptionError: what is there says nothing.
        """
        self._check_fence()
        for _ in range(_MOST_ATTEMPTS):
            found, seen = _look(self._store)
            # If the object was lost, the clock makes the new term the higher one.
            term = max(int(self._clock.wall_s()), above + 1, 1 if found is None else found.term + 1)
            if self._write(TermNote(term, self._owner, self._holder, self._addresses), seen):
                self.number, self._confirmed_at = term, self._clock.boot_s()
                return term
        raise UnavailableError("other coordinators keep taking this root", key=KEY)

    def _write(self, note: TermNote, seen: SeenState) -> bool:
        """Put it in place of what was seen; return False when another coordinator was faster."""
        # Crash here: the former coordinator still holds the root.
        self._on_step("term.take")
        try:
            self._put(note, seen)
        except (ConflictError, UnavailableError) as error:
            # The answer to an earlier try may have been lost after it took effect. What is in place tells.
            if _look(self._store)[0] == note:
                return True
            if isinstance(error, ConflictError):
                return False
            raise
        return True

    def _put(self, note: TermNote, seen: SeenState) -> ObjectStat:
        data = note.encode()
        if seen.version is None:
            return self._store.put(KEY, data)
        return self._store.replace(KEY, data, if_version=seen.version)

    def advertise(self, addresses: Sequence[str]) -> None:
        """Say in the root where this coordinator is reached, once that is known; after `take`.

        Raises:
            ConflictError: another coordinator has taken the root.
            UnavailableError: the store does not answer.
        """
        if tuple(addresses) == self._addresses:
            return
        self._check_fence()
        found, seen = _look(self._store)
        self._check_ours(found)  # what is ours at this moment is replaced, and nothing that came since
        self._addresses = tuple(addresses)
        if not self._write(TermNote(self.number, self._owner, self._holder, self._addresses), seen):
            self.confirm()

    def confirm(self, max_age_s: float = 0.0) -> None:
        """Make sure that the root is still ours, unless that was so not longer ago than this. One small read.

        It is the `ConfirmRoot` of this coordinator's catalogs.

        Raises:
            ConflictError: another coordinator has taken it, or a person has deleted the object: this one may change
                nothing any more.
        """
        self._check_fence()
        now = self._clock.boot_s()
        if now - self._confirmed_at < max_age_s:
            return
        self._check_ours(look(self._store))
        self._confirmed_at = now  # when the request began: what it has found may be older than its end

    def _check_ours(self, found: TermNote | None) -> None:
        if found is None or found.owner != self._owner or found.term != self.number:
            by = "nothing says whose it is" if found is None else found.holder or f"a coordinator of term {found.term}"
            self.other_owner, self.is_fenced = by, True
            self._check_fence()

    def _check_fence(self) -> None:
        if self.is_fenced:
            raise ConflictError(
                f"this root was taken over from term {self.number}; this coordinator may not change it until it is "
                "restarted",
                key=KEY,
                actual=self.other_owner,
            )
