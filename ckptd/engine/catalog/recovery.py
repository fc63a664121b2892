"""Decides at start what happens to every save that has a record.

`gather` looks, `judge` decides (pure: facts come in, a fate and a reason go out), `Recoverer` acts. Any crash,
also one in the middle of recovery, leaves facts from which the same is decided again. In doubt it leaves things
alone and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from enum import Enum

from ckptd.engine.catalog import deleting
from ckptd.engine.catalog.deleting import IndexInPlace, index_in_place
from ckptd.engine.catalog.presence import has_object
from ckptd.engine.catalog.records import Record
from ckptd.errors import NotFoundError
from ckptd.printable import counted
from ckptd.storage.base import Store
from ckptd.storage.together import together

_MOST_NAMED = 8


class Fate(Enum):
    """What recovery does about one save."""

    ADOPT = "adopted"  # complete, but not published: publish it
    CONFIRM = "confirmed"  # published, but not yet noted: note it
    WAIT = "waited for"  # never committed, and its writers on other hosts may come back: leave it alone for now
    SWEEP = "swept"  # never committed: delete its shards
    DROP = "dropped"  # no longer kept: delete what is left
    FORGET = "forgotten"  # noted late by a former owner, and its shards are another save's: only its record goes
    SET_ASIDE = "set aside"  # deleted by its owner, which may undo it
    PRESERVE = "preserved"  # removed from the list by an unknown party: note that it is kept for good
    RESTORE = "restored"  # marked to be dropped, but still listed: take the mark back
    LEAVE = "left alone"  # in doubt
    NOTHING = "as it was"  # all is well


@dataclass(frozen=True, slots=True)
class SaveFacts:
    """What can be seen of one save of ours.

    Attributes:
        record: its record.
        is_listed: the state file lists its prefix.
        index: the index in place at its prefix, None if there is none.
        shards_are_there: every shard is there and has its size; looked at only where it matters.
        replaced_by: a later save of ours of the same prefix that the index in place belongs to.
        horizon: set when retention was interrupted: what was saved up to then was to be deleted, wall clock.
        is_undoable: its owner deleted it, and the time in which that can be undone is not over.
        is_aside: the copy of its index is there that undoing needs; looked at only where it matters.
        is_kept: another save of ours has its place, which keeps what it replaces, and there is a copy of its index.
        may_go_on: the agents on other hosts that write it may still come back.
        double_of: another save whose shards have the very same keys: what is there is that one's.
    """

    record: Record
    is_listed: bool
    index: IndexInPlace | None
    shards_are_there: bool
    replaced_by: Record | None
    horizon: float | None
    is_undoable: bool = False
    is_aside: bool = False
    is_kept: bool = False
    may_go_on: bool = False
    double_of: Record | None = None

    @property
    def has_its_index(self) -> bool:
        """The index in place refers to this save's shards."""
        return self.index is not None and self.index.refers_to_shards_of(self.record)


@dataclass(frozen=True, slots=True)
class RecoveryOutcome:
    """What recovery did about one save or one listed path, and why, in words for people."""

    subject: str
    fate: Fate
    reason: str


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a recovery did. Checkpoints that are as they should be are not mentioned."""

    outcomes: tuple[RecoveryOutcome, ...]
    swept_objects: tuple[str, ...] = ()
    """Keys whose unfinished temporaries were removed."""
    problems: tuple[str, ...] = ()
    """What is damaged and does not keep the run from being used, and what to do about it, in words for people."""
    passed_by: tuple[str, ...] = ()
    """What the state file lists as newer than the latest, and that is not complete, with the reasons."""

    def subjects(self, fate: Fate) -> list[str]:
        """Return what this happened to."""
        return [outcome.subject for outcome in self.outcomes if outcome.fate is fate]


def judge(facts: SaveFacts) -> tuple[Fate, str]:
    """Decide what becomes of one save."""
    record, index = facts.record, facts.index
    if facts.double_of is not None:
        return Fate.FORGET, f"a former owner noted it late, and its shards are those of save {facts.double_of.save_id}"
    if index is not None and not index.is_as_written_by(record) and index.num_shards is None:
        if record.published and facts.is_listed:
            return Fate.NOTHING, "it is published; its index cannot be decoded, see verify"
        return Fate.LEAVE, "the index in place cannot be decoded, so its owner is unknown"
    if record.dropped:
        return _judge_dropped(facts)
    return _judge_published(facts) if record.published else _judge_unpublished(facts)


def _judge_dropped(facts: SaveFacts) -> tuple[Fate, str]:
    if not facts.has_its_index:
        if facts.is_undoable and facts.is_aside:
            return Fate.NOTHING, "it was deleted, which can still be undone"
        return Fate.DROP, "its deletion was begun"
    if facts.is_listed:
        if facts.shards_are_there:
            return Fate.RESTORE, "it was to be deleted, but the state file still lists it"
        return Fate.LEAVE, "the state file lists it, but shards are missing"
    if _index_is_foreign(facts):
        return Fate.LEAVE, "another program has replaced its index"
    if facts.is_undoable:
        return Fate.SET_ASIDE, "it was being deleted, or brought back, and neither was acknowledged"
    return Fate.DROP, "its deletion was not finished"


def _judge_unpublished(facts: SaveFacts) -> tuple[Fate, str]:
    if not facts.has_its_index:
        if facts.index is None and facts.is_listed:
            return Fate.LEAVE, "the state file lists it, but its index is gone"
        if facts.may_go_on:
            return Fate.WAIT, f"it was not committed, and goes on if {_in_words(facts.record.writers)} come back"
        if facts.record.aborted_at is not None:
            return Fate.SWEEP, "it was aborted; its number of shards stays taken until its writers know, or for a day"
        return Fate.SWEEP, "it was never committed"
    if not facts.shards_are_there:
        if facts.record.aborted_at is not None:
            return Fate.SWEEP, "its index came after its shards were deleted, from an owner that hung"
        return Fate.LEAVE, "its index is in place, but shards are missing or have another size"
    if not facts.record.write_state:
        return Fate.CONFIRM, "it was complete, and no state file is to name it"
    if facts.is_listed:
        return Fate.CONFIRM, "it was published just before the crash"
    return Fate.ADOPT, "it was complete, and not yet published"


def _judge_published(facts: SaveFacts) -> tuple[Fate, str]:
    record = facts.record
    if facts.index is None:
        if facts.horizon is not None and record.saved_at <= facts.horizon and not facts.is_listed:
            return Fate.DROP, "retention had begun to delete it"
        return Fate.LEAVE, "another program deleted its index"
    if not facts.has_its_index:
        if facts.is_kept:
            return Fate.SET_ASIDE, "another save replaced it, which can be undone"
        if facts.replaced_by is not None:
            return Fate.DROP, f"save {facts.replaced_by.save_id} replaced it"
        return Fate.LEAVE, "another program has replaced its index"
    if facts.is_listed or record.preserved or record.pinned:
        return Fate.NOTHING, "it is published"
    if record.quarantine:
        return Fate.NOTHING, "it is in quarantine"
    if _index_is_foreign(facts):
        return Fate.LEAVE, "another program has replaced its index"
    if facts.horizon is None:
        return Fate.PRESERVE, "the state file no longer lists it, and we did not take it out"
    if record.saved_at <= facts.horizon:
        return Fate.DROP, "retention let it go just before the crash"
    return Fate.PRESERVE, "retention let it go just before the crash; it may have been due to be kept for good"


def _in_words(hosts: tuple[str, ...]) -> str:
    more = f" and {counted(len(hosts) - _MOST_NAMED, 'more host')}" if len(hosts) > _MOST_NAMED else ""
    return "the agents on " + ", ".join(hosts[:_MOST_NAMED]) + more


def _index_is_foreign(facts: SaveFacts) -> bool:
    noted = facts.record.index_crc32c is not None
    return facts.index is not None and noted and not facts.index.is_as_written_by(facts.record)


def horizon_of(unpublished_but_listed: Iterable[Record]) -> float | None:
    """Return up to which time of saving an interrupted retention was sure to delete; None if none was interrupted.

    Retention is over when the save that caused it is noted as published. So a save that the state file lists and
    whose record does not say so was interrupted there.
    """
    return min((record.next_keep_at for record in unpublished_but_listed), default=None)


def gather(
    store: Store,
    records: Collection[Record],
    listed: Collection[str],
    is_undoable: Callable[[Record], bool],
    live: Collection[Record] = (),
    may_go_on: Callable[[Record], bool] = lambda record: False,
) -> list[SaveFacts]:
    """Look at what is in place for each record; nothing is changed. `listed` are the keys of listed prefixes.

    `records` are all of a run that no living save owns, in the order in which their saves began; `live` are those of
    living saves. `is_undoable` says whether the time in which a deletion can be undone is not over, `may_go_on`
    whether the time in which other hosts may come back to a save is not.
    """
    of_prefix: dict[str, list[Record]] = {}
    for record in records:
        of_prefix.setdefault(record.prefix_key, []).append(record)

    def look(prefix: str) -> list[SaveFacts]:
        facts, attempts = [], of_prefix[prefix]
        index = index_in_place(store, attempts[0].index_key)
        for number, record in enumerate(attempts):
            its_own = index is not None and index.refers_to_shards_of(record)
            later = (each for each in attempts[number + 1 :] if index is not None and index.refers_to_shards_of(each))
            facts.append(
                SaveFacts(
                    record,
                    is_listed=prefix in listed,
                    index=index,
                    shards_are_there=its_own and _shards_are_there(store, record),
                    replaced_by=None if its_own else next(later, None),
                    horizon=None,
                    is_undoable=is_undoable(record),
                    is_aside=deleting.is_aside(store, record),
                    may_go_on=may_go_on(record),
                    is_kept=not its_own and _is_kept(store, record, attempts, index),
                )
            )
        return facts

    facts = _without_doubles([each for found in together(store, look, of_prefix) for each in found], live)
    interrupted = (
        each.record
        for each in facts
        if each.is_listed and not each.record.published and each.has_its_index and each.double_of is None
    )
    horizon = horizon_of(interrupted)
    return [replace(each, horizon=horizon) for each in sorted(facts, key=lambda each: each.record.sequence)]


def _without_doubles(facts: Collection[SaveFacts], live: Collection[Record]) -> list[SaveFacts]:
    """Mark the saves whose shards are another's.

    No two saves of a prefix have as many shards, by choice. But where owners cannot be kept out, one that was taken
    over from may note a save after its successor has looked, by a request that was on its way. It writes no index.
    """
    owners = {(each.prefix, each.num_shards): each for each in live}
    for each in sorted(facts, key=_belongs_sooner):
        if each.record.published or each.has_its_index:
            owners.setdefault((each.record.prefix, each.record.num_shards), each.record)

    def owner(record: Record) -> Record | None:
        found = owners.get((record.prefix, record.num_shards))
        return None if record.published or found == record else found

    return [replace(each, double_of=owner(each.record)) for each in facts]


def _belongs_sooner(facts: SaveFacts) -> tuple[bool, bool, int, int, int]:
    """Order the saves that the same shards may belong to, the likeliest first."""
    record = facts.record
    return not record.published, not facts.shards_are_there, -record.term, -record.epoch, -record.sequence


def _is_kept(store: Store, record: Record, attempts: Collection[Record], index: IndexInPlace | None) -> bool:
    if index is None or not record.published or record.dropped:
        return False
    owner = next((each for each in attempts if index.refers_to_shards_of(each)), None)
    return owner is not None and owner.keeps_replaced and has_object(store, record.aside_key)


def _shards_are_there(store: Store, record: Record) -> bool:
    try:
        return all(
            store.stat(key).size_bytes == size for key, size in zip(record.shard_keys, record.shard_sizes, strict=True)
        )
    except NotFoundError:
        return False
