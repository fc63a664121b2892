"""The list that a state file holds, as a value: what is in it, what leaves it, and its text. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ckptd.engine.catalog.floor import NO_FLOOR, Floor
from ckptd.engine.catalog.records import Record
from ckptd.engine.catalog.retention import Action, Candidate, Decision, RetentionPolicy, Rule, Verdict, decide
from ckptd.engine.catalog.tensorflow_rules import ManagerHousekeeping
from ckptd.engine.checkpoint import Checkpoint
from ckptd.format.state_file import CheckpointState


@dataclass(frozen=True, slots=True)
class Style:
    """How a state file is written.

    Attributes:
        rule: a Saver writes paths only, a manager also times.
        relative_paths: what is beside the state file is named by its last component, otherwise by its location.
        preserved: a manager's mark, None when there was no state file.
    """

    rule: Rule = Rule.SAVER
    relative_paths: bool = True
    preserved: float | None = None


@dataclass(frozen=True, slots=True)
class ListedEntry:
    """One listed checkpoint.

    Attributes:
        path: what names it: relative to the state file's directory for everything in it.
        prefix_key: its key in the store, None if it is elsewhere.
        checkpoint: what is known of it.
        record: of the save that wrote it, None if it was not ours.
        at: when it was saved, as the retention rule has it, wall clock.
        is_managed: the retention rule has it in its own list; otherwise only the state file names it.
    """

    path: str
    prefix_key: str | None
    checkpoint: Checkpoint
    record: Record | None
    at: float = 0.0
    is_managed: bool = True


@dataclass(frozen=True, slots=True)
class Listing:
    """The listed checkpoints, oldest first, the latest last."""

    entries: tuple[ListedEntry, ...] = ()

    def with_newest(self, entry: ListedEntry) -> Listing:
        """Return the list with one more at its end; an older one with the same prefix makes room."""
        return Listing((*self.without(entry.path).entries, entry))

    def with_adopted(self, entry: ListedEntry) -> Listing:
        """Return the list with a checkpoint that was forgotten, at the place that its age gives it."""
        others = list(self.without(entry.path).entries)
        place = len(others)
        while place and _is_newer(others[place - 1], entry):
            place -= 1
        return Listing((*others[:place], entry, *others[place:]))

    def with_unlisted(self, unlisted: Sequence[ListedEntry]) -> list[ListedEntry]:
        """Return those of this store and `unlisted` ones, which are oldest first, in the order of their age."""
        found, rest = [], list(reversed(unlisted))
        for entry in self.here:
            while rest and _is_newer(entry, rest[-1]):
                found.append(rest.pop())
            found.append(entry)
        return [*found, *reversed(rest)]

    def without(self, path: str) -> Listing:
        """Return the list without one entry."""
        return Listing(tuple(entry for entry in self.entries if entry.path != path))

    def with_latest_forgotten(self) -> Listing:
        """Return the list as a Saver without limit leaves it: it names the latest and does not remember it."""
        return Listing((*self.entries[:-1], *(replace(entry, is_managed=False) for entry in self.entries[-1:])))

    def with_replaced(self, entry: ListedEntry) -> Listing:
        """Return the list with another checkpoint of the same prefix in an entry's place."""
        return Listing(
            tuple(
                replace(each, checkpoint=entry.checkpoint, record=entry.record)
                if each.prefix_key == entry.prefix_key
                else each
                for each in self.entries
            )
        )

    def updated(self, record: Record, checkpoint: Checkpoint) -> Listing:
        """Return the list with what is now known of a save, if it, or an older one of the same prefix, is listed."""
        return Listing(
            tuple(
                replace(entry, checkpoint=checkpoint, record=record)
                if entry.record is not None
                and entry.prefix_key == record.prefix_key
                and entry.record.sequence <= record.sequence
                and (entry.record.save_id == record.save_id or (record.published and not record.dropped))
                else entry
                for entry in self.entries
            )
        )

    @property
    def here(self) -> list[ListedEntry]:
        """Those that are in this store."""
        return [entry for entry in self.entries if entry.prefix_key is not None]

    def has_room(self, policy: RetentionPolicy) -> bool:
        """Say whether one more may be listed without making another leave."""
        counted = sum(entry.is_managed and not entry.checkpoint.pinned for entry in self.entries)
        return not policy.max_to_keep or counted < policy.max_to_keep

    def taken_over(
        self, policy: RetentionPolicy, style: Style, now: float, made_at: float
    ) -> tuple[Listing, float | None]:
        """Return the list as a new Saver or manager has it that begins at `now`, and a manager's mark.

        `style` is that of the state file that the list was read from. Without one the hours of a manager count from
        `made_at`, and so they do where the clock has been set back: the first save is newer than that.
        """
        if policy.rule is Rule.SAVER:
            # A Saver goes by the times of modification, in whole seconds.
            times = [math.floor(entry.checkpoint.saved_at) for entry in self.entries]
            taken = (replace(each, at=at, is_managed=True) for each, at in zip(self.entries, times, strict=True))
            return Listing(tuple(taken)), None
        has_clock_gone_back = style.preserved is not None and style.preserved > now
        manager = ManagerHousekeeping.start(
            policy.max_to_keep,
            policy.keep_checkpoint_every_n_hours,
            made_at if style.preserved is None or has_clock_gone_back else now,
            paths=[entry.path for entry in self.entries],
            timestamps=[entry.at for entry in self.entries] if style.rule is Rule.MANAGER else (),
            last_preserved=style.preserved,
        )
        active = manager.active
        taken = (
            replace(entry, at=active.get(entry.path, entry.at), is_managed=entry.path in active)
            for entry in self.entries
        )
        return Listing(tuple(taken)), manager.preserved

    def reduced(self, policy: RetentionPolicy, mark: float, floor: Floor = NO_FLOOR) -> tuple[Listing, Decision]:
        """Let the rule record the last entry; return what stays, and the verdicts, in this list's order."""
        decision = decide(policy, self._candidates(), mark, floor)
        staying = [
            entry
            for entry, verdict in zip(self.entries, decision.verdicts, strict=True)
            if verdict.action is Action.KEEP
        ]
        left = Listing(tuple(staying))
        if policy.rule is Rule.SAVER and not policy.max_to_keep:
            left = left.with_latest_forgotten()
        return left, decision

    def foreseen(
        self, policy: RetentionPolicy, mark: float, now: float, floor: Floor = NO_FLOOR
    ) -> tuple[Verdict, ...]:
        """Return what would become of each entry if one more were saved at `now`, in this list's order."""
        return decide(policy, [*self._candidates(), Candidate("", now)], mark, floor).verdicts[:-1]

    def _candidates(self) -> list[Candidate]:
        return [
            Candidate(
                entry.checkpoint.prefix,
                entry.at,
                pinned=entry.checkpoint.pinned,
                is_managed=entry.is_managed,
                is_released=entry.record is not None and entry.record.released,
            )
            for entry in self.entries
        ]

    def encode(self, style: Style, location: Callable[[str], str]) -> bytes:
        """Return the state file's bytes, as TensorFlow writes them. Not for an empty list.

        `location` returns where a key of the store is.
        """
        paths = tuple(
            entry.path
            if style.relative_paths or entry.prefix_key is None or "/" in entry.path
            else location(entry.prefix_key)
            for entry in self.entries
        )
        if style.rule is Rule.SAVER:
            return CheckpointState(paths[-1], paths).encode()
        times = tuple(entry.at for entry in self.entries)
        return CheckpointState(paths[-1], paths, times, style.preserved or 0.0).encode()


def _is_newer(one: ListedEntry, other: ListedEntry) -> bool:
    """Order by when the saves began, which no clock can disturb; what is not ours has only its time."""
    if one.record is not None and other.record is not None:
        return one.record.sequence > other.record.sequence
    return one.checkpoint.saved_at > other.checkpoint.saved_at
