"""Rebuilds a lost, malformed or wrong state file from the checkpoints that are complete on disk.

Recovery never does this by itself: a history must not silently change. A person requests it, and what the state file
held before is kept beside the records. What is in quarantine is read again, all of it, and taken back if it is whole.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import compress

from ckptd.engine.catalog import commit as durable
from ckptd.engine.catalog import listed, records, reserve, survey
from ckptd.engine.catalog.commit import SeenState
from ckptd.engine.catalog.fence import Life, signature_after
from ckptd.engine.catalog.flaws import Flaw
from ckptd.engine.catalog.records import Record
from ckptd.engine.catalog.survey import Found
from ckptd.engine.offline import mending
from ckptd.engine.reading.verify import verify
from ckptd.errors import CorruptionError, NotFoundError
from ckptd.format import names
from ckptd.format.crc32c import crc32c
from ckptd.format.state_file import CheckpointState
from ckptd.storage.base import Store
from ckptd.storage.keys import join
from ckptd.storage.lock_holder import LockHolder


@dataclass(frozen=True, slots=True)
class Repaired:
    """What `repair` found and did.

    Attributes:
        is_changed: a state file was written; False when the one in place says what it should.
        reason: what was wrong with it, in words for people; "" when nothing was.
        prefixes: locations that the state file lists now, oldest first; the last is the latest.
        left_out: (location, why) of those that it listed before, or that have an index here, and that are not complete.
        kept_at: where the text that was replaced is now; None if there was none.
        mended: what else was damaged and put aside, in words for people.
    """

    is_changed: bool
    reason: str
    prefixes: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...] = ()
    kept_at: str | None = None
    mended: tuple[str, ...] = ()


def repair(
    store: Store,
    directory: str,
    latest_filename: str = names.STATE_KEY,
    *,
    takes_over: bool = False,
    life: Life | None = None,
) -> Repaired:
    """Make the state file of `directory` name only complete checkpoints; durable on return. May be repeated.

    One that can be parsed keeps its order and loses what is not complete. One that cannot be, or that names nothing
    complete, is rebuilt: from those that ckptd or another program saved here, not counting what left the list before
    and was kept for good. Shards are looked for, not read: `verify` reads them.

    A damaged epoch and damaged records, which keep a run from being opened, are put aside.

    With `takes_over` the run is taken even if its owner may be alive, as on another host of a bucket. `life` is that of
    the daemon that does this to a run of its own.

    Raises:
        NotFoundError: when there is no complete checkpoint; nothing was changed.
        ConflictError: when another process is working on the directory, or replaced the state file meanwhile.
    """
    mended = mending.make_room_for_records(store, directory)
    with store.lock(join(directory, f"{records.DIRECTORY}/lock"), holder="ckptd repair", takes_over=takes_over):
        key = join(directory, latest_filename)
        mended += mending.mend_records(store, directory)
        mended += mending.put_away_unreadable(store, directory)
        mended += mending.make_room_for_state(store, key)
        seen = durable.look(store, key)
        lifted = _lift_quarantines(store, directory)
        found = {_key_of(store, directory, each): _listable(each) for each in survey.survey(store, directory, None)}
        left_out = [(each.checkpoint.prefix, str(each.problem)) for each in found.values() if each.problem is not None]
        old, reason = _parse(seen, key)
        new = _without_incomplete(store, directory, old, found, left_out)
        if new is None:
            new = _from_disk(directory, latest_filename, found, store)
            reason = reason or "it named no complete checkpoint"
        elif old is not None and new != old:
            reason = "it named checkpoints that are not complete, or by paths of another place"
        if lifted and new is not None:
            new = _with_lifted(new, lifted, {each.prefix: each for each in records.load(store, directory).found})
            reason = (
                reason or f"{', '.join(each.prefix for each in lifted)} verifies again and is in quarantine no more"
            )
        if new is None:
            if seen.data is not None and old is None and not _was_ever_published(store, directory):
                mended.append(mending.put_away(store, key, CorruptionError(reason, key=key)))
            if mended:
                return Repaired(True, reason, (), tuple(left_out), mended=tuple(mended))
            raise NotFoundError("there is no complete checkpoint here to make a state file from", key=directory or None)
        now_listed = tuple(_location(store, directory, path) for path in new.all_model_checkpoint_paths)
        if not reason:
            return Repaired(bool(mended), "", now_listed, tuple(left_out), mended=tuple(mended))
        kept_at = _keep(store, directory, latest_filename, seen)
        durable.publish(store, key, new.encode() + _signature(store, seen, life), seen)
        return Repaired(True, reason, now_listed, tuple(left_out), kept_at, tuple(mended))


def _listable(found: Found) -> Found:
    """Return what a state file cannot name with that as its problem: it must not keep the others from being listed."""
    try:
        found.checkpoint.prefix.encode("utf-8")
    except UnicodeEncodeError:
        return replace(found, problem=found.problem or Flaw("its name is not UTF-8, as a state file is"))
    return found


def _lift_quarantines(store: Store, directory: str) -> list[Record]:
    """Read what is in quarantine again; take the mark from what is whole, and return it, oldest first."""
    lifted = []
    for record in records.load(store, directory).found:
        if record.quarantine and record.published and not record.dropped:
            with suppress(NotFoundError):
                if verify(store, record.prefix_key).ok:
                    record = records.change(
                        store, record, quarantine="", quarantined_at=None, quarantined_by="", verified_at=time.time()
                    )
                    lifted.append(record)
    return lifted


def _with_lifted(state: CheckpointState, lifted: list[Record], ours: dict[str, Record]) -> CheckpointState:
    """Return the list with those that were in quarantine, each before the first that was saved after it."""
    paths = list(state.all_model_checkpoint_paths) or [state.model_checkpoint_path]
    times = dict(zip(state.all_model_checkpoint_paths, state.all_model_checkpoint_timestamps, strict=False))
    for record in lifted:
        if record.preserved or record.prefix in paths:
            continue
        later = (n for n, path in enumerate(paths) if path in ours and ours[path].sequence > record.sequence)
        paths.insert(next(later, len(paths)), record.prefix)
        times[record.prefix] = record.saved_at
    return replace(
        state,
        model_checkpoint_path=paths[-1],
        all_model_checkpoint_paths=tuple(paths),
        all_model_checkpoint_timestamps=tuple(times.get(path, 0.0) for path in paths)
        if state.all_model_checkpoint_timestamps
        else (),
    )


def _signature(store: Store, seen: SeenState, life: Life | None) -> bytes:
    """Return the line that keeps a former owner out, in a store without locks: its state is outdated."""
    if store.has_locks:
        return b""
    holder = LockHolder.here("ckptd repair").line
    return signature_after(seen.data, holder, time.time(), life).encode()


def _parse(seen: SeenState, key: str) -> tuple[CheckpointState | None, str]:
    if seen.data is None:
        return None, "there was none"
    try:
        return listed.decode_state(seen.data, key), ""
    except CorruptionError as error:
        return None, error.reason


def _without_incomplete(
    store: Store,
    directory: str,
    old: CheckpointState | None,
    found: dict[str, Found],
    left_out: list[tuple[str, str]],
) -> CheckpointState | None:
    """Return the old list without what is not complete here; what is elsewhere stays, unless it is the latest."""
    if old is None:
        return None
    paths = listed.in_order(old)
    times = dict(zip(old.all_model_checkpoint_paths, old.all_model_checkpoint_timestamps, strict=False))
    staying: list[str] = []
    renamed: dict[str, str] = {}
    for path in paths:
        sighting = listed.find(store, directory, path)
        prefix = sighting.key
        if prefix is None:
            is_good = True
        elif prefix in found:
            is_good = found[prefix].problem is None
        else:  # in another directory of this store, or gone
            is_good = survey.is_complete(store, prefix)
            if not is_good:
                left_out.append((store.location(prefix), "its index is missing, or a shard"))
        if is_good and prefix is not None and sighting.how and prefix.rpartition("/")[0] == directory:
            renamed[path] = prefix.rpartition("/")[2]  # it was written where the directory had another name
        if is_good:
            staying.append(path)
    while staying and listed.resolve(store, directory, staying[-1]) is None:
        staying.pop()
    if not staying:
        return None
    if not renamed and staying == list(old.all_model_checkpoint_paths) and staying[-1] == old.model_checkpoint_path:
        return old
    return replace(
        old,
        model_checkpoint_path=renamed.get(staying[-1], staying[-1]),
        all_model_checkpoint_paths=tuple(renamed.get(path, path) for path in staying),
        all_model_checkpoint_timestamps=tuple(times.get(path, 0.0) for path in staying) if times else (),
    )


def _was_ever_published(store: Store, directory: str) -> bool:
    """Whether a checkpoint was here: if none is whole any more, a person has to decide before the history is lost."""
    return any(record.published for record in records.load(store, directory).found)


def _from_disk(directory: str, latest_filename: str, found: dict[str, Found], store: Store) -> CheckpointState | None:
    ours = {record.save_id: record for record in records.load(store, directory).found}
    whole = [each for each in found.values() if each.problem is None]
    usable = survey.by_age(whole, ours, latest_filename)
    if not usable:
        # When a run is opened without its state file, all its checkpoints are noted as off the list and kept for good.
        # Some were so before. Those on the list are deleted in their turn, so only the newest is listed again.
        listed_once = (
            record is None or (record.write_state and record.latest_filename == latest_filename)
            for record in (ours.get(each.checkpoint.save_id) for each in whole)
        )
        usable = survey.by_age(compress(whole, listed_once), ours, None)[-1:]
    if not usable:
        return None
    paths = tuple(each.checkpoint.prefix.rpartition("/")[2] for each in usable)
    return CheckpointState(paths[-1], paths)


def _keep(store: Store, directory: str, latest_filename: str, seen: SeenState) -> str | None:
    if not seen.data:
        return None
    key = join(directory, f"{records.DIRECTORY}/{latest_filename}.before-{crc32c(seen.data):08x}")
    reserve.copy(store, join(directory, latest_filename), seen.data, key)
    return store.location(key)


def _key_of(store: Store, directory: str, found: Found) -> str:
    return listed.resolve(store, directory, found.checkpoint.prefix) or found.checkpoint.prefix


def _location(store: Store, directory: str, path: str) -> str:
    prefix = listed.resolve(store, directory, path)
    return path if prefix is None else store.location(prefix)
