"""Delete checkpoints that ckptd did not write, when a person explicitly requests that.

No record proves which program owns them, so retention and recovery call nothing here. The order is the one that `prune`
keeps for ours: first no state file names it, then the index goes, then what the index referred to.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from ckptd.engine.catalog import deleting, listed, reserve, survey
from ckptd.engine.catalog.commit import OnStep, ignore_step
from ckptd.engine.catalog.records import DIRECTORY
from ckptd.engine.reading import indexes
from ckptd.errors import ConflictError, CorruptionError, NotFoundError
from ckptd.format import names
from ckptd.format.state_file import MAX_SIZE_BYTES, CheckpointState
from ckptd.storage.base import Store

_BEGINNING = b"model_checkpoint_path"


def state_files(store: Store, directory: str) -> dict[str, CheckpointState]:
    """Return the state files directly in a directory by their keys: whatever begins like one and parses as one.

    A Saver may use any name for its state file, so the name proves nothing.
    """
    found = {}
    for stat in store.list(directory, deep=False):
        if not len(_BEGINNING) <= stat.size_bytes <= MAX_SIZE_BYTES:
            continue
        beginning = bytearray(len(_BEGINNING))
        with suppress(CorruptionError, NotFoundError):
            store.read_into(stat.key, 0, memoryview(beginning))
            if beginning == _BEGINNING:
                found[stat.key] = CheckpointState.decode(store.get(stat.key, limit_bytes=MAX_SIZE_BYTES), stat.key)
    return found


def named_as_latest(store: Store, directory: str) -> set[str]:
    """Return the locations of all prefixes that some state file in a directory names as its latest."""
    latest = (listed.resolve(store, directory, state.model_checkpoint_path) for state in _states(store, directory))
    return {store.location(prefix) for prefix in latest if prefix is not None}


def delete(store: Store, prefix: str, *, even_latest: bool = False, on_step: OnStep = ignore_step) -> None:
    """Delete the checkpoint whose prefix is the key `prefix`, of any program. Durable on return, safe to repeat.

    Raises:
        ConflictError: when a state file names it as the latest and `even_latest` is False, a record says it is ours, or
            it is being read.
        CorruptionError: when its index cannot be decoded: then its files are unknown.
        NotFoundError: when there is no index.
    """
    directory = prefix.rpartition("/")[0]
    if prefix in survey.records_by_prefix(store, directory):
        raise ConflictError(f"this is ckptd's own checkpoint, recorded in {DIRECTORY}", key=prefix)
    index_key = names.index_key(prefix)
    num_shards = indexes.decode(store.get(index_key), index_key).num_shards
    with deleting.unread(store, prefix, num_shards):
        _delete(store, directory, prefix, num_shards, even_latest, on_step)


def _delete(store: Store, directory: str, prefix: str, num_shards: int, even_latest: bool, on_step: OnStep) -> None:
    changes = []
    for key, state in state_files(store, directory).items():
        is_latest = listed.resolve(store, directory, state.model_checkpoint_path) == prefix
        if is_latest and not even_latest:
            raise ConflictError(f"{key} names it as the latest checkpoint", key=prefix)
        changed = _without(store, directory, state, prefix)
        if changed != state:
            changes.append((key, changed))
    for key, changed in changes:
        # Crash here: some state files name it no longer, and it is still whole.
        on_step("foreign.state")
        if changed.model_checkpoint_path:
            reserve.replace(store, directory, key, changed.encode())
        else:
            store.delete([key])
    # Crash here: a whole checkpoint that no state file names.
    on_step("foreign.index")
    store.delete([names.index_key(prefix)])
    # Crash here: data files without an index. TensorFlow leaves such files too; `ckptd verify` does not report them.
    on_step("foreign.shards")
    shards = [names.shard_key(prefix, shard, num_shards) for shard in range(num_shards)]
    store.delete([*shards, names.meta_key(prefix)])


def _states(store: Store, directory: str) -> list[CheckpointState]:
    return [state for state in state_files(store, directory).values() if state.model_checkpoint_path]


def _without(store: Store, directory: str, state: CheckpointState, prefix: str) -> CheckpointState:
    """Return what a state file says without one checkpoint; the newest complete one that is left becomes the latest."""
    paths = state.all_model_checkpoint_paths
    staying = [n for n, path in enumerate(paths) if listed.resolve(store, directory, path) != prefix]
    latest = state.model_checkpoint_path
    if listed.resolve(store, directory, latest) == prefix:
        latest = next((paths[n] for n in reversed(staying) if _is_complete(store, directory, paths[n])), "")
    times = state.all_model_checkpoint_timestamps
    return replace(
        state,
        model_checkpoint_path=latest,
        all_model_checkpoint_paths=tuple(paths[n] for n in staying),
        all_model_checkpoint_timestamps=tuple(times[n] for n in staying) if len(times) == len(paths) else times,
    )


def _is_complete(store: Store, directory: str, path: str) -> bool:
    prefix = listed.resolve(store, directory, path)
    return prefix is not None and survey.is_complete(store, prefix)
