"""Reads a state file as the list that retention goes on with: each entry looked up in the store, nothing changed."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from ckptd.engine.catalog import listed, survey
from ckptd.engine.catalog.flaws import NO_INDEX, Flaw
from ckptd.engine.catalog.listing import ListedEntry, Listing, Style
from ckptd.engine.catalog.records import Record
from ckptd.engine.catalog.retention import Rule
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.log import warn_once
from ckptd.errors import NotFoundError
from ckptd.format import names
from ckptd.format.state_file import CheckpointState
from ckptd.storage.base import Store
from ckptd.storage.keys import join
from ckptd.storage.together import together


@dataclass(slots=True)
class ReadList:
    """What a state file says, as far as the store bears it out.

    Attributes:
        listing: the complete ones, and those that are elsewhere.
        style: how it is written.
        prefixes: the keys of all that are in this store.
        problems: of those of them that are not complete: why. TensorFlow lets these count, and so may delete the last
            that is whole; we do not.
        passed_by: the newest of these, which stand behind all that are complete, in words for people.
    """

    listing: Listing = field(default_factory=Listing)
    style: Style = field(default_factory=Style)
    prefixes: set[str] = field(default_factory=set)
    problems: dict[str, str] = field(default_factory=dict)
    passed_by: list[str] = field(default_factory=list)


def read_list(store: Store, run: str, key: str, data: bytes | None, ours: Iterable[Record]) -> ReadList:
    """Read the state file at `key` of `run`, whose bytes are `data`, None if there is none.

    Raises:
        CorruptionError: when it cannot be parsed, or names no latest checkpoint.
    """
    if data is None:
        return ReadList()
    state = listed.decode_state(data, key)
    by_prefix: dict[str, list[Record]] = {}
    for record in ours:
        by_prefix.setdefault(record.prefix_key, []).append(record)
    times = dict(zip(state.all_model_checkpoint_paths, state.all_model_checkpoint_timestamps, strict=False))
    found = ReadList(style=_style_of(state))

    def look(path: str) -> ListedEntry:
        at, sighting = times.get(path, 0.0), listed.find(store, run, path)
        prefix = sighting.key
        if sighting.how:
            warn_once(f"{store.location(key)}: it names {path}, which is found {sighting.how}")
        if prefix is None:
            elsewhere = Checkpoint(path, names.step_of(path), 0, 0, at, durability=store.durability)
            return ListedEntry(path, None, elsewhere, None, at=at)
        found.prefixes.add(prefix)
        return _look_up(store, run, path, prefix, by_prefix.get(prefix, []), at, found.problems)

    for entry in together(store, look, listed.in_order(state)):
        if entry.prefix_key not in found.problems:
            # One by one, as two paths may mean the same checkpoint: the later counts.
            found.listing = found.listing.with_newest(entry)
            found.passed_by.clear()
        else:
            found.passed_by.append(f"{store.location(entry.prefix_key)}: {found.problems[entry.prefix_key]}")
    if not found.listing.here:
        _take_what_is_there(store, run, key, by_prefix, found)
    return found


def list_of(store: Store, run: str, key: str, data: bytes, ours: Iterable[Record]) -> ReadList | None:
    """Read a state file as `read_list` does of a run whose every object is known to be in place, without a look.

    None when it lists something without a record.
    """
    state = listed.decode_state(data, key)
    newest: dict[str, Record] = {}
    for record in sorted(ours, key=lambda record: record.sequence):
        newest[record.prefix_key] = record
    times = dict(zip(state.all_model_checkpoint_paths, state.all_model_checkpoint_timestamps, strict=False))
    found = ReadList(style=_style_of(state))
    for path in listed.in_order(state):
        prefix = listed.resolve(store, run, path)
        if prefix is None or prefix not in newest:
            return None
        record = newest[prefix]
        checkpoint = survey.checkpoint_of(store, record)
        entry = ListedEntry(record.prefix, prefix, checkpoint, record, at=times.get(path) or checkpoint.saved_at)
        found.prefixes.add(prefix)
        found.listing = found.listing.with_newest(entry)
    return found


def _take_what_is_there(store: Store, run: str, key: str, by_prefix: dict[str, list[Record]], found: ReadList) -> None:
    """List what is whole in the run's directory, as the state file lists nothing that is; it stays as it is for now."""
    ours = {record.save_id: record for attempts in by_prefix.values() for record in attempts}
    whole = [each for each in survey.survey(store, run, None) if each.problem is None]
    oldest_first = survey.by_age(whole, ours, key.rpartition("/")[2])
    for each in oldest_first:
        name = each.checkpoint.prefix.rpartition("/")[2]
        record = ours.get(each.checkpoint.save_id)
        entry = ListedEntry(name, join(run, name), each.checkpoint, record, at=each.checkpoint.saved_at)
        found.prefixes.add(join(run, name))
        found.listing = found.listing.with_newest(entry)
    if oldest_first:
        warn_once(
            f"{store.location(key)}: none that it lists is whole here; going on from what lies in the directory, the "
            f"newest of {len(oldest_first)} being {oldest_first[-1].checkpoint.prefix}"
        )


def _look_up(
    store: Store, run: str, path: str, prefix: str, attempts: list[Record], at: float, problems: dict[str, str]
) -> ListedEntry:
    if prefix.rpartition("/")[0] == run:
        path = prefix.rpartition("/")[2]
    location, step = store.location(prefix), names.step_of(prefix)
    checkpoint = Checkpoint(location, step, 0, 0, at, durability=store.durability)
    problem: Flaw | None = NO_INDEX
    with suppress(NotFoundError):
        checkpoint, problem = survey.describe(store, store.stat(names.index_key(prefix)), attempts)
    if problem is not None:
        problems[prefix] = str(problem)
    record = next((each for each in attempts if each.save_id == checkpoint.save_id), None)
    return ListedEntry(
        path,
        prefix,
        checkpoint,
        record,
        at=at or checkpoint.saved_at,
    )


def _style_of(state: CheckpointState) -> Style:
    is_of_a_manager = state.all_model_checkpoint_timestamps or state.last_preserved_timestamp
    path = state.model_checkpoint_path
    is_relative = not path.startswith("/") and "://" not in path
    return Style(Rule.MANAGER if is_of_a_manager else Rule.SAVER, is_relative, state.last_preserved_timestamp)
