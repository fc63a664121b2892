"""The list that a state file holds, as a value: who is in it, who leaves it, and its text. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.records import Record
from ckptd.engine.retention import Action, Candidate, Decision, RetentionPolicy, decide
from ckptd.format.state_file import CheckpointState


@dataclass(frozen=True, slots=True)
class Entry:
    """One listed checkpoint.

    Attributes:
        path: what the state file says: relative to its directory for everything in it.
        prefix_key: its key in the store, None if it lies elsewhere.
        checkpoint: what is known of it.
        record: of the save that wrote it, None if it was not ours.
    """

    path: str
    prefix_key: str | None
    checkpoint: Checkpoint
    record: Record | None


@dataclass(frozen=True, slots=True)
class Listing:
    """The listed checkpoints, oldest first, the latest last."""

    entries: tuple[Entry, ...] = ()

    def with_newest(self, entry: Entry) -> Listing:
        """Return the list with one more at its end; an older one with the same prefix makes room."""
        return Listing((*self.without(entry.path).entries, entry))

    def with_adopted(self, entry: Entry) -> Listing:
        """Return the list with a checkpoint that was forgotten, at the place that its age gives it."""
        others = list(self.without(entry.path).entries)
        place = len(others)
        while place and _is_newer(others[place - 1], entry):
            place -= 1
        return Listing((*others[:place], entry, *others[place:]))

    def without(self, path: str) -> Listing:
        """Return the list without one entry."""
        return Listing(tuple(entry for entry in self.entries if entry.path != path))

    def reduced(
        self, policy: RetentionPolicy, next_keep_at: float, in_use: Collection[str]
    ) -> tuple[Listing, Decision]:
        """Apply retention: return who stays, and the verdicts, in this list's order.

        `in_use` holds prefixes as `Checkpoint.prefix` has them.
        """
        candidates = [
            Candidate(
                entry.checkpoint.prefix,
                entry.checkpoint.saved_at,
                pinned=entry.checkpoint.pinned,
                in_use=entry.checkpoint.prefix in in_use,
            )
            for entry in self.entries
        ]
        decision = decide(policy, candidates, next_keep_at)
        staying = [
            entry
            for entry, verdict in zip(self.entries, decision.verdicts, strict=True)
            if verdict.action is Action.KEEP
        ]
        return Listing(tuple(staying)), decision

    def encode(self) -> bytes:
        """Return the state file's bytes: fields 1 and 2, as TensorFlow's Saver writes them. Not for an empty list."""
        paths: Sequence[str] = [entry.path for entry in self.entries]
        return CheckpointState(paths[-1], tuple(paths)).encode()


def _is_newer(one: Entry, other: Entry) -> bool:
    """Order by when the saves began, which no clock can disturb; what is not ours has only its time."""
    if one.record is not None and other.record is not None:
        return one.record.sequence > other.record.sequence
    return one.checkpoint.saved_at > other.checkpoint.saved_at
