"""What a directory of checkpoints holds, for readers: no lock, no record needed, nothing is changed.

Works on directories that TensorFlow wrote, and beside a daemon that is writing: what vanishes between two looks
was deleted meanwhile and is left out.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ckptd.engine import series
from ckptd.engine.catalog import lookalikes, presence, records
from ckptd.engine.catalog.deleting import index_in_place
from ckptd.engine.catalog.flaws import NO_INDEX, Flaw, FlawKind
from ckptd.engine.catalog.listed import find, listed_paths, resolve
from ckptd.engine.catalog.records import Record
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.log import warn_once
from ckptd.errors import CorruptionError, NotFoundError
from ckptd.format import names
from ckptd.format.state_file import MAX_SIZE_BYTES
from ckptd.storage.base import ObjectStat, Store
from ckptd.storage.keys import join
from ckptd.storage.together import together


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint in a directory, and what is wrong with it.

    Attributes:
        checkpoint: the checkpoint; of what could not be found out, sizes and counts are 0.
        is_listed: the state file lists it.
        is_latest: it is the latest: the state file names it, or means it, see `latest_checkpoint`.
        problem: why it is not whole, None if all its files are there. Checksums are not looked at.
    """

    checkpoint: Checkpoint
    is_listed: bool
    is_latest: bool
    problem: Flaw | None = None

    @property
    def is_quarantined(self) -> bool:
        """Whether its owner has confirmed that it is damaged; `problem` is the reason then."""
        return self.problem is not None and self.problem.kind is FlawKind.QUARANTINED


def latest_checkpoint(
    store: Store, directory: str, latest_filename: str = names.STATE_KEY, name: str = names.ANY_NAME
) -> Checkpoint | None:
    """Return the checkpoint that the state file names; None if there is no state file, or nothing that it could mean.

    With a `name`, it is the newest that this means; see `series`. Where a state file is missing that was there once,
    the log says so: it may have been lost, or removed to start over.

    If what it names is not there or not whole, the newest other one that it lists is meant, and at last the newest
    whole one in the directory; the log says what was passed by and why. If none is whole, it is the one that is named:
    restoring it raises an error that says what is wrong.

    Raises:
        CorruptionError: for a state file that cannot be read as one, or in whose place something else is; when what
            it lists is in quarantine, and nothing else is whole.
    """
    state_key = join(directory, latest_filename)
    data: bytes | None = None
    while True:
        before = data
        data = presence.read_if_there(store, state_key, limit_bytes=MAX_SIZE_BYTES)
        if data is None:
            _warn_of_lost_state(store, directory, latest_filename, name)
            return None
        passed: list[str] = []
        paths = of_name(store, directory, listed_paths(data, state_key), latest_filename, name)
        if not paths:
            return None
        named = _latest_listed(store, directory, paths, passed)
        # Where a save was published meanwhile, what the state file listed before may be gone by now.
        if not passed or data == before:
            break
    if named is not None and named.problem is None:
        if passed or named.how:
            how = f", found {named.how}" if named.how else ""
            why = f"; passed by: {'; '.join(passed)}" if passed else ""
            warn_once(f"{store.location(state_key)}: the latest is {named.checkpoint.prefix}{how}{why}")
        return named.checkpoint
    newest = newest_whole(store, directory, latest_filename, name)
    if newest is not None:
        warn_once(
            f"{store.location(state_key)}: none that it lists is whole here, so the latest is {newest.prefix}, the "
            f"newest whole one in the directory; passed by: {'; '.join(passed)}"
        )
        return newest
    if named is not None and named.problem is not None and named.problem.kind is FlawKind.QUARANTINED:
        raise CorruptionError(
            f"no checkpoint here is whole, and the one that is named is {named.problem}. {_AFTER_QUARANTINE}",
            key=state_key,
        )
    return None if named is None else named.checkpoint


def _warn_of_lost_state(store: Store, directory: str, latest_filename: str, name: str) -> None:
    """Say which checkpoint a state file that is missing has named, if there is one, and how to get it back."""
    ours = {
        record.save_id: record
        for record in records.load(store, directory).found
        if record.published and record.write_state and record.latest_filename == latest_filename
    }
    if not ours:
        return
    whole = [
        each for each in survey(store, directory, None) if each.problem is None and each.checkpoint.save_id in ours
    ]
    oldest_first = by_age(series.of_name(whole, name, checkpoint_of=lambda each: each.checkpoint), ours, None)
    if oldest_first:
        warn_once(
            f"{store.location(join(directory, latest_filename))}: this state file is missing, so nothing here is the "
            f"latest. The newest whole checkpoint is {oldest_first[-1].checkpoint.prefix}; "
            f"`ckptd repair {store.location(directory) if directory else store.url}` makes a state file that names it"
        )


@dataclass(frozen=True, slots=True)
class _Named:
    """What a state file means, and how that was found out."""

    checkpoint: Checkpoint
    problem: Flaw | None
    how: str


def _latest_listed(store: Store, directory: str, paths: list[str], passed: list[str]) -> _Named | None:
    """Return the newest whole one of a list, else the newest that is there at all; note in `passed` what is not it."""
    damaged: _Named | None = None
    for path in reversed(paths):
        sighting = find(store, directory, path)
        if sighting.key is None:
            passed.append(f"{path} lies elsewhere, or nowhere")
            continue
        try:
            stat = store.stat(names.index_key(sighting.key))
        except NotFoundError:
            passed.append(f"{path}: {NO_INDEX}")
            continue
        run = sighting.key.rpartition("/")[0]
        ours = {} if run != directory else records_by_prefix(store, run)
        checkpoint, problem = describe(store, stat, ours.get(sighting.key, []))
        if problem is None:
            return _Named(checkpoint, None, sighting.how)
        passed.append(f"{path}: {problem}")
        damaged = damaged or _Named(checkpoint, problem, sighting.how)
    return damaged


def of_name(store: Store, directory: str, paths: list[str], latest_filename: str, name: str) -> list[str]:
    """Return those of the `paths` that a state file lists that `name` means, the latest last.

    A state file may list no more than the very latest: then the newest of a name that it has forgotten is returned.
    """
    if name == names.ANY_NAME:
        return paths
    own = [path for path in paths if names.base_name(path.replace("\\", "/")) == name]
    if own:
        return own
    keys = store.keys(directory)
    indices = [key for key in keys if key.endswith(names.INDEX_SUFFIX) and not lookalikes.is_left_beside(key)]
    if all(names.base_name(key.removesuffix(names.INDEX_SUFFIX)) != name for key in indices):
        return paths if name == names.DEFAULT_NAME else []
    ours = {record.save_id: record for record in records.load(store, directory).found}
    forgotten = []
    for each in survey(store, directory, None):
        record = ours.get(each.checkpoint.save_id)
        is_listable = record is None or (record.write_state and record.latest_filename == latest_filename)
        if each.problem is None and series.name_of(each.checkpoint) == name and is_listable:
            forgotten.append(each)
    return [each.checkpoint.prefix.rpartition("/")[2] for each in by_age(forgotten, ours, None)[-1:]]


def newest_whole(
    store: Store, directory: str, latest_filename: str = names.STATE_KEY, name: str = names.ANY_NAME
) -> Checkpoint | None:
    """Return the newest whole checkpoint in a directory, whatever the state file says; None if there is none."""
    found = [each for each in survey(store, directory, None) if each.problem is None]
    found = series.of_name(found, name, checkpoint_of=lambda each: each.checkpoint)
    ours = {record.save_id: record for record in records.load(store, directory).found}
    oldest_first = by_age(found, ours, latest_filename) or by_age(found, ours, None)
    return oldest_first[-1].checkpoint if oldest_first else None


def by_age(found: Iterable[Found], ours: Mapping[str, Record], latest_filename: str | None) -> list[Found]:
    """Return whole checkpoints, oldest first: those that a state file of this name would list; of None: all.

    `ours` are the records by their save's id. Ours know the order in which they began, which no clock can disturb.
    """
    usable: list[tuple[int, float, int, Found]] = []
    for each in found:
        record = ours.get(each.checkpoint.save_id)
        if record is not None and (
            record.dropped
            or (latest_filename is not None and (record.preserved or record.latest_filename != latest_filename))
        ):
            continue
        order = record.sequence if record is not None else 0
        usable.append((order, each.checkpoint.saved_at, each.checkpoint.step or 0, each))
    is_ordered = all(order for order, *_ in usable)
    usable.sort(key=lambda each: (each[0] if is_ordered else 0, *each[1:3]))
    return [each for *_, each in usable]


def list_checkpoints(store: Store, directory: str) -> list[Checkpoint]:
    """Return the complete checkpoints directly in `directory`, oldest first.

    Of any program, and whatever the state file says; but not those that are about to be deleted.
    """
    ours = {record.save_id: record for record in records.load(store, directory).found}
    found = [each.checkpoint for each in survey(store, directory, None) if each.problem is None]
    of_ours = [each for each in found if each.save_id in ours and not ours[each.save_id].dropped]
    # Ours are ordered by when they began, which no clock can disturb. What is not ours comes by its steps: a copy has
    # the times of its copying.
    of_ours.sort(key=lambda each: ours[each.save_id].sequence)
    others = [each for each in found if each.save_id not in ours]
    return list(heapq.merge(of_ours, others, key=lambda each: each.saved_at))


def survey(store: Store, directory: str, latest_filename: str | None = names.STATE_KEY) -> list[Found]:
    """Return every checkpoint that has an index directly in `directory`, complete or not, by step, then by name.

    Without a `latest_filename` the list is not needed.

    Raises:
        CorruptionError: for a state file that cannot be read as one.
    """
    listed = [] if latest_filename is None else listed_in(store, directory, latest_filename)
    ours = records_by_prefix(store, directory)

    def look(stat: ObjectStat) -> tuple[str, Found]:
        prefix = stat.key.removesuffix(names.INDEX_SUFFIX)
        checkpoint, problem = describe(store, stat, ours.get(prefix, []))
        return prefix, Found(checkpoint, prefix in listed, False, problem)

    indices = lookalikes.indices(store.list(directory, deep=False), listed)
    found = {prefix: each for prefix, each in together(store, look, indices) if each.problem != NO_INDEX}
    if listed:
        by_id = {record.save_id: record for attempts in ours.values() for record in attempts}
        latest = _meant(directory, listed, found, by_id, latest_filename or "")
        if latest in found:
            found[latest] = replace(found[latest], is_latest=True)
    return sorted(
        found.values(),
        key=lambda each: (each.checkpoint.step is None, each.checkpoint.step or 0, each.checkpoint.prefix),
    )


def listed_in(store: Store, directory: str, latest_filename: str = names.STATE_KEY) -> list[str | None]:
    """Return the keys of the prefixes that the state file lists, the latest last; None for one that is elsewhere.

    Raises:
        CorruptionError: when it cannot be read as one.
    """
    state_key = join(directory, latest_filename)
    state = presence.read_if_there(store, state_key, limit_bytes=MAX_SIZE_BYTES)
    if state is None:
        return []
    return [resolve(store, directory, path) for path in listed_paths(state, state_key)]


def _meant(
    directory: str,
    listed: list[str | None],
    found: Mapping[str, Found],
    ours: Mapping[str, Record],
    latest_filename: str,
) -> str:
    """Return the key of the prefix that is the latest, as `latest_checkpoint` has it."""
    for prefix in reversed(listed):
        if prefix is not None and (prefix.rpartition("/")[0] != directory or _is_whole(found.get(prefix))):
            return prefix
    keys = {each.checkpoint.prefix: prefix for prefix, each in found.items()}
    whole = [each for each in found.values() if _is_whole(each)]
    oldest_first = by_age(whole, ours, latest_filename) or by_age(whole, ours, None)
    return keys[oldest_first[-1].checkpoint.prefix] if oldest_first else listed[-1] or ""


def _is_whole(found: Found | None) -> bool:
    return found is not None and found.problem is None


_AFTER_QUARANTINE = (
    "`ckptd repair` looks again and takes back what is whole; `ckptd rm` removes it, after which training begins anew"
)


def is_complete(store: Store, prefix: str) -> bool:
    """Whether a checkpoint of any program is there with all its files; checksums are not looked at."""
    try:
        return describe(store, store.stat(names.index_key(prefix)), [])[1] is None
    except NotFoundError:
        return False


def describe(store: Store, index: ObjectStat, ours: list[Record]) -> tuple[Checkpoint, Flaw | None]:
    """Describe the checkpoint of an index in place, and say why it is not complete, if so.

    `ours` are the records of its prefix, of whatever attempt.
    """
    prefix = index.key.removesuffix(names.INDEX_SUFFIX)
    location = store.location(prefix)
    nothing = Checkpoint(location, names.step_of(prefix), 0, 0, index.modified_at, durability=store.durability)
    try:
        look = index_in_place(store, index.key)
    except CorruptionError as error:  # one that is too large, say, must not hide the others
        return nothing, Flaw(f"its index cannot be read: {error.reason}")
    if look is None:
        return nothing, NO_INDEX
    # A record that knows the index's checksum saves us decoding it.
    record = next((each for each in ours if look.is_as_written_by(each)), None)
    if record is None:
        if look.num_shards is None:
            return nothing, Flaw("its index cannot be decoded")
        unsure = [each for each in ours if each.index_crc32c is None and look.refers_to_shards_of(each)]
        record = unsure[-1] if unsure else None
    num_shards = record.num_shards if record is not None else look.num_shards or 0
    size_bytes = 0
    problem: Flaw | None = None
    for shard in range(num_shards):
        key = names.shard_key(prefix, shard, num_shards)
        try:
            size_bytes += store.stat(key).size_bytes
        except NotFoundError:
            problem = Flaw(f"shard {key} is missing")
            break
    if record is not None:
        if problem is None and size_bytes != record.size_bytes:
            problem = Flaw(f"its shards hold {size_bytes} bytes, not {record.size_bytes}")
        if record.quarantine:
            problem = Flaw(record.quarantine, FlawKind.QUARANTINED)
        return checkpoint_of(store, record, saved_at=index.modified_at), problem
    return replace(nothing, size_bytes=size_bytes, num_shards=num_shards), problem


class AllInQuarantineError(CorruptionError):
    """A run has checkpoints, and all of them are in quarantine."""


def all_in_quarantine(newest: Record) -> CorruptionError:
    """Return the error of a run whose checkpoints are all in quarantine."""
    return AllInQuarantineError(
        f"no checkpoint of it is whole, and the newest is in quarantine: {newest.quarantine}. {_AFTER_QUARANTINE}",
        key=newest.prefix_key,
    )


def checkpoint_of(store: Store, record: Record, *, saved_at: float = 0.0) -> Checkpoint:
    """Describe a checkpoint of ours from its record; `saved_at` serves when the record does not say yet."""
    return Checkpoint(
        prefix=store.location(record.prefix_key),
        step=record.step,
        size_bytes=record.size_bytes,
        num_shards=record.num_shards,
        saved_at=record.saved_at if record.published else saved_at,
        duration_s=record.duration_s,
        pinned=record.pinned,
        save_id=record.save_id,
        durability=store.durability,
        verified_at=record.verified_at,
    )


def records_by_prefix(store: Store, run: str) -> dict[str, list[Record]]:
    """Return a run's records by the key of their prefix, each list in the order in which the saves began."""
    found: dict[str, list[Record]] = {}
    for record in records.load(store, run).found:
        found.setdefault(record.prefix_key, []).append(record)
    return found
