"""What happens to runs, and by which identity: told to a journal, which a daemon keeps as its audit log.

Everything that changes a run is told twice: before it happens, and when it is over. What is only begun in the journal
was interrupted, or is under way.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Protocol

BEGUN, DONE = "begun", "done"


@dataclass(frozen=True, slots=True)
class Actor:
    """The cause of an event: an identity, and the host that it called from."""

    identity: str
    peer: str = ""


DAEMON = Actor("daemon")
"""What no caller caused: deadlines, the end of the time to undo a deletion, recovery after a crash."""


class Reserve(Enum):
    """What a record may use of the room that a journal sets aside, once the disk is full otherwise."""

    NONE = "none"  # it can wait
    HALF = "half"  # it has to come before a removal, or it is the daemon's own
    ALL = "all"  # it frees something


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of something that has ended, for figures; no record has it.

    Attributes:
        size_bytes: of the checkpoint.
        seconds: how long it took.
        phases_s: how long each phase of a save took, those that it came to the end of.
        lag_s: of a save of several ranks: how long after the median the last byte of the slowest came.
        received_bytes: what came here, by the way: ``shm``, ``grpc``; of a restore what came there, also ``direct``.
        stall_s: how long a rank's call of `save` made training stand still, by what it was for.
        whys: of retention: how often it decided so, by what that rests on (`ckptd.engine.catalog.retention.Why`).
        tensors: of a verification: how many there are, by what they are: ``ok``, ``corrupt``.
        world_size: how many ranks a save has.
        slowest_rank: the one whose last byte came last; None where no byte came.
        last_to_declare: the rank that was the last to declare a save.
    """

    size_bytes: int
    seconds: float = 0.0
    phases_s: Mapping[str, float] = field(default_factory=dict)
    lag_s: float | None = None
    received_bytes: Mapping[str, int] = field(default_factory=dict)
    stall_s: Mapping[str, float] = field(default_factory=dict)
    whys: Mapping[str, int] = field(default_factory=dict)
    tensors: Mapping[str, int] = field(default_factory=dict)
    world_size: int = 0
    slowest_rank: int | None = None
    last_to_declare: int | None = None


_next_act = itertools.count(1).__next__


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One thing that happens.

    Attributes:
        event: what it is, ``delete``.
        outcome: ``begun``, ``done``, or why it came to nothing.
        run: the run that it is about; "" for none.
        step: the checkpoint's; None for none.
        actors: the causes: of a save all whose ranks have declared it.
        reserve: what its record may use of the room that is set aside, so that a full disk can be emptied. All but
            `NONE` is recorded durably before it happens.
        details: what else is known: texts, numbers, lists of texts.
        is_recorded: whether it is for those journals too that keep a record; else only for figures.
        measured: returns what was measured of what has ended; called by what needs it, before `Journal.ended` returns.
        act: tells which entry that ends something belongs to which one that began it.
    """

    event: str
    outcome: str = BEGUN
    run: str = ""
    step: int | None = None
    actors: tuple[Actor, ...] = (DAEMON,)
    reserve: Reserve = Reserve.NONE
    details: Mapping[str, object] = field(default_factory=dict)
    is_recorded: bool = True
    measured: Callable[[], Measured] | None = field(default=None, compare=False, repr=False)
    act: int = field(default_factory=_next_act, compare=False)

    def ended(
        self,
        outcome: str = DONE,
        details: Mapping[str, object] | None = None,
        measured: Callable[[], Measured] | None = None,
    ) -> JournalEntry:
        """Return the entry that tells how it ended; `details` are added."""
        told = {**self.details, **(details or {})}
        return replace(self, outcome=outcome, details=told, measured=measured or self.measured)


_REFUSALS = frozenset({"ConflictError", "InvalidRequestError", "NotPermittedError", "NotNowError", "EvictedError"})


def outcome_of_save(entry: JournalEntry) -> str:
    """Say how a save ended: ``committed``, ``refused``, as it must not begin, ``aborted``, or ``failed``.

    An aborted one could not succeed, as a rank was lost, late or gave up; one that failed was let down by the store.
    """
    error = str(entry.details.get("error", ""))
    if entry.outcome == "committed":
        return entry.outcome
    if error in _REFUSALS:
        return "refused"
    return "aborted" if error == "SessionAbortedError" else "failed"


class Journal(Protocol):
    """Takes entries, from any thread."""

    @property
    def complaint(self) -> str:
        """Why the last entry was not kept, in words; "" if it was."""

    def begins(self, entry: JournalEntry) -> None:
        """Take what is about to happen.

        Raises:
            CkptdError: it cannot be recorded, and so it must not happen.
        """

    def ended(self, entry: JournalEntry) -> None:
        """Take how something ended, with the `act` that it began with, or what happened by itself.

        Never raises `CkptdError`.
        """


class NoJournal:
    """Takes everything and keeps nothing: for direct mode, whose programs are their own witnesses."""

    complaint = ""

    def begins(self, entry: JournalEntry) -> None:
        """See `Journal`."""

    def ended(self, entry: JournalEntry) -> None:
        """See `Journal`."""


NO_JOURNAL = NoJournal()


class Journals:
    """Several that take the same entries. What the first refuses to record, the others are not told of.

    The first keeps a record, the others are for figures.
    """

    def __init__(self, first: Journal, *others: Journal) -> None:
        """Tell `first` before the others."""
        self._first, self._others, self._all = first, others, (first, *others)

    def add(self, other: Journal) -> None:
        """Tell one more from now on. It may have to do with the end of what it was not told the beginning of."""
        self._others, self._all = (*self._others, other), (*self._all, other)

    @property
    def complaint(self) -> str:
        """See `Journal`: the first one's."""
        return self._first.complaint

    def begins(self, entry: JournalEntry) -> None:
        """See `Journal`."""
        for each in self._all:
            each.begins(entry)

    def ended(self, entry: JournalEntry) -> None:
        """See `Journal`."""
        for each in self._all if entry.is_recorded else self._others:
            each.ended(entry)


def tell_figures(journal: Journal, event: str, run: str, measured: Callable[[], Measured]) -> None:
    """Tell what was measured of something that is no change, and that no record has, where there are figures."""
    if isinstance(journal, Journals):
        journal.ended(JournalEntry(event, DONE, run, is_recorded=False, measured=measured))
