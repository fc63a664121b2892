"""What a directory of checkpoints holds, for readers: no lock, no record needed, nothing is changed.

Works on directories that TensorFlow wrote, and beside a daemon that is writing: what vanishes between two looks
was deleted meanwhile and is left out.
"""

from __future__ import annotations

import os.path
from contextlib import suppress
from dataclasses import dataclass, replace

from ckptd.engine import records
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.prune import index_in_place
from ckptd.engine.records import Record
from ckptd.errors import CorruptionError, NotFoundError
from ckptd.format import names
from ckptd.format.state_file import CheckpointState
from ckptd.storage.base import ObjectStat, Store
from ckptd.storage.keys import join
from ckptd.storage.together import together


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint in a directory, and what speaks against it.

    Attributes:
        checkpoint: the checkpoint; of what could not be found out, sizes and counts are 0.
        is_listed: the state file lists it.
        is_latest: the state file names it as the latest.
        problem: why it is not complete, None if all its files are there. Checksums are not looked at.
    """

    checkpoint: Checkpoint
    is_listed: bool
    is_latest: bool
    problem: str | None = None


def listed_paths(data: bytes, key: str) -> list[str]:
    """Return the paths that a state file's bytes list, as written there, oldest first, the latest last.

    Raises:
        CorruptionError: when it cannot be parsed, or names no latest checkpoint.
    """
    return in_order(decode_state(data, key))


def decode_state(data: bytes, key: str) -> CheckpointState:
    """Decode a state file that names a latest checkpoint; raises as `listed_paths`."""
    state = CheckpointState.decode(data, key)
    if not state.model_checkpoint_path:
        raise CorruptionError("this state file names no checkpoint", key=key)
    return state


def in_order(state: CheckpointState) -> list[str]:
    """Return the paths that a state lists, as written there, each once, oldest first, the latest last."""
    latest = state.model_checkpoint_path
    # A person who rolls back edits the first line only: it decides, wherever the list has it.
    return [*dict.fromkeys(path for path in state.all_model_checkpoint_paths if path != latest), latest]


def resolve(store: Store, directory: str, path: str) -> str | None:
    """Return the key of the prefix that a state file in `directory` names by `path`; None when it lies elsewhere."""
    if path.startswith("/") or "://" in path:
        root = store.url.rstrip("/") + "/"
        if not path.startswith(root):
            return None
        key = path[len(root) :]
    else:
        key = join(directory, path)
    key = os.path.normpath(key)
    return None if key.startswith(("../", "/")) or key in ("..", ".") else key


def latest_checkpoint(store: Store, directory: str, latest_filename: str = names.STATE_KEY) -> Checkpoint | None:
    """Return the checkpoint that the state file names, None if there is no state file or the index is gone.

    Raises:
        CorruptionError: for a state file that cannot be read as one.
    """
    state_key = join(directory, latest_filename)
    try:
        paths = listed_paths(store.get(state_key), state_key)
    except NotFoundError:
        return None
    prefix = resolve(store, directory, paths[-1])
    if prefix is None:
        return None
    try:
        stat = store.stat(names.index_key(prefix))
    except NotFoundError:
        return None
    run = prefix.rpartition("/")[0]
    ours = {} if run != directory else records_by_prefix(store, run)
    return describe(store, stat, ours.get(prefix, []))[0]


def list_checkpoints(store: Store, directory: str) -> list[Checkpoint]:
    """Return the complete checkpoints directly in `directory`, in the order of their steps, then of their names.

    Whoever wrote them, and whatever the state file says.
    """
    return [found.checkpoint for found in survey(store, directory, None) if found.problem is None]


def survey(store: Store, directory: str, latest_filename: str | None = names.STATE_KEY) -> list[Found]:
    """Return every checkpoint that has an index directly in `directory`, complete or not, by step, then by name.

    Without a `latest_filename` nobody asks what is listed.

    Raises:
        CorruptionError: for a state file that cannot be read as one.
    """
    listed: list[str | None] = []
    if latest_filename is not None:
        state_key = join(directory, latest_filename)
        with suppress(NotFoundError):
            listed = [resolve(store, directory, path) for path in listed_paths(store.get(state_key), state_key)]
    ours = records_by_prefix(store, directory)

    def look(stat: ObjectStat) -> Found:
        prefix = stat.key.removesuffix(names.INDEX_SUFFIX)
        checkpoint, problem = describe(store, stat, ours.get(prefix, []))
        return Found(checkpoint, prefix in listed, bool(listed) and prefix == listed[-1], problem)

    indices = (stat for stat in store.list(directory, deep=False) if stat.key.endswith(names.INDEX_SUFFIX))
    found = [each for each in together(store, look, indices) if each.problem != GONE]
    found.sort(key=lambda each: (each.checkpoint.step is None, each.checkpoint.step or 0, each.checkpoint.prefix))
    return found


GONE = "its index is missing"
"""The problem of a checkpoint without an index: to a reader it is no checkpoint."""


def describe(store: Store, index: ObjectStat, ours: list[Record]) -> tuple[Checkpoint, str | None]:
    """Describe the checkpoint of an index in place, and say why it is not complete, if so.

    `ours` are the records of its prefix, of whatever attempt.
    """
    prefix = index.key.removesuffix(names.INDEX_SUFFIX)
    location = store.location(prefix)
    nothing = Checkpoint(location, names.step_of(prefix), 0, 0, index.modified_at, durability=store.durability)
    look = index_in_place(store, index.key)
    if look is None:
        return nothing, GONE
    # A record that knows the index's checksum saves us decoding it.
    record = next((each for each in ours if look.is_as_written_by(each)), None)
    if record is None:
        if look.num_shards is None:
            return nothing, "its index cannot be decoded"
        unsure = [each for each in ours if each.index_crc32c is None and look.refers_to_shards_of(each)]
        record = unsure[-1] if unsure else None
    num_shards = record.num_shards if record is not None else look.num_shards or 0
    size_bytes, problem = 0, None
    for shard in range(num_shards):
        key = names.shard_key(prefix, shard, num_shards)
        try:
            size_bytes += store.stat(key).size_bytes
        except NotFoundError:
            problem = f"shard {key} is missing"
            break
    if record is not None:
        if problem is None and size_bytes != record.size_bytes:
            problem = f"its shards hold {size_bytes} bytes, not {record.size_bytes}"
        return checkpoint_of(store, record, saved_at=index.modified_at), problem
    return replace(nothing, size_bytes=size_bytes, num_shards=num_shards), problem


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
    )


def records_by_prefix(store: Store, run: str) -> dict[str, list[Record]]:
    """Return a run's records by the key of their prefix, each list in the order in which the saves began."""
    found: dict[str, list[Record]] = {}
    for record in records.load(store, run).found:
        found.setdefault(record.prefix_key, []).append(record)
    return found
