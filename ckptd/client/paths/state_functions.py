"""Change a directory's state file and checkpoints: the functions that TensorFlow's users know, on paths and store URLs.

The counterparts that only read are in `latest`. Source: TensorFlow
``tensorflow/python/checkpoint/checkpoint_management.py``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from ckptd.client.paths.latest import Path, as_text, find_stat, is_absolute, open_state
from ckptd.client.saving import own_saves
from ckptd.errors import ConflictError, InvalidRequestError
from ckptd.format.names import index_key, meta_key, parse_shard_key
from ckptd.format.saver_pb2 import SaverDef
from ckptd.format.state_file import CheckpointState
from ckptd.storage.base import Store
from ckptd.storage.holds import unread
from ckptd.storage.locations import split_prefix

_OLD_VERSIONS = (SaverDef.LEGACY, SaverDef.V1)
_SHARD_OF_A_NAME = re.compile(r"-[\d?]+-of-\d+$", re.ASCII)


def update_checkpoint_state(
    save_dir: Path,
    model_checkpoint_path: Path,
    all_model_checkpoint_paths: Sequence[Path] | None = None,
    latest_filename: str | None = None,
    all_model_checkpoint_timestamps: Sequence[float] | None = None,
    last_preserved_timestamp: float | None = None,
) -> None:
    """Make the state file of `save_dir` name a checkpoint; durable on return, and never seen half written.

    Relative paths count from the working directory. They are stored relative to `save_dir`, unless that is absolute:
    then they are stored as they are, as with TensorFlow.

    Args:
        save_dir: where the state file is.
        model_checkpoint_path: the latest checkpoint.
        all_model_checkpoint_paths: those that are kept, oldest first; the latest is appended if it is not the last.
        latest_filename: the state file's name, ``checkpoint`` if None.
        all_model_checkpoint_timestamps: when they were saved, one for each.
        last_preserved_timestamp: when the newest that is kept for good was saved.

    Raises:
        InvalidRequestError: in TensorFlow's words, when the timestamps are not as many as the paths, or the checkpoint
            would have the state file's own name.
    """
    save_dir, path = as_text(save_dir), as_text(model_checkpoint_path)
    own_saves.await_beside(*open_state(save_dir, latest_filename))  # it would write its own over this
    state = state_of(
        save_dir,
        path,
        [as_text(one) for one in all_model_checkpoint_paths or ()],
        all_model_checkpoint_timestamps,
        last_preserved_timestamp,
    )
    write_state(save_dir, latest_filename, path, state)


def write_state(save_dir: str, latest_filename: str | None, path: str, state: CheckpointState) -> None:
    """Write a state file, whose latest checkpoint is `path` as seen from the working directory."""
    check_state_path(save_dir, latest_filename, path)
    store, key = open_state(save_dir, latest_filename)
    store.replace(key, state.encode())


def check_state_path(save_dir: str, latest_filename: str | None, path: str) -> None:
    """Refuse a checkpoint that has the place of the state file itself, in TensorFlow's words."""
    store, key = open_state(save_dir, latest_filename)
    at, name = split_prefix(path)
    if at.location(name) == store.location(key):
        raise InvalidRequestError(
            f"Save path '{path}' conflicts with path used for checkpoint state.  Please use a different save path."
        )


def state_of(
    save_dir: str,
    path: str,
    all_paths: Sequence[str] = (),
    timestamps: Sequence[float] | None = None,
    last_preserved_timestamp: float | None = None,
    *,
    save_relative_paths: bool = False,
) -> CheckpointState:
    """Return the content of a state file in `save_dir`, with paths as they are stored there.

    With `save_relative_paths`, absolute paths are stored relative to `save_dir` too.
    """
    paths = [*all_paths] if all_paths and all_paths[-1] == path else [*all_paths, path]
    if timestamps and len(timestamps) != len(paths):
        raise InvalidRequestError(
            "Checkpoint timestamps, if provided, must match checkpoint paths "
            f"(got paths {paths} and timestamps {list(timestamps)})"
        )
    # A path is made relative once: TensorFlow does it twice when an absolute path meets a relative directory and
    # `save_relative_paths`, and is then off by one level.
    stored = [
        _relative(one, save_dir) if _is_stored_relative(one, save_dir, save_relative_paths) else one for one in paths
    ]
    return CheckpointState(stored[-1], tuple(stored), tuple(timestamps or ()), last_preserved_timestamp or 0.0)


def get_checkpoint_mtimes(checkpoint_prefixes: Sequence[Path]) -> list[float]:
    """Return when checkpoints were last written, in whole seconds since 1970; those that are missing are left out.

    The time is that of the index or, of the old format, of the file. Those that this process saves just now are waited
    for.
    """
    if isinstance(checkpoint_prefixes, (str, bytes, os.PathLike)):
        raise InvalidRequestError("pass several prefixes in a list", actual=repr(checkpoint_prefixes))
    for prefix in checkpoint_prefixes:
        own_saves.await_prefix(as_text(prefix))
    stats = map(find_stat, checkpoint_prefixes)
    return [float(int(stat.modified_at)) for stat in stats if stat is not None]


def remove_checkpoint(
    checkpoint_prefix: Path, checkpoint_format_version: int = SaverDef.V2, meta_graph_suffix: str = "meta"
) -> None:
    """Delete the files of a checkpoint: index, data files and graph description. The state file is not touched.

    Missing files are fine, and no character of the prefix is a wildcard. The index goes first, so a crash in between
    leaves files that nothing reads, and no damaged checkpoint. If this process saves it just now, that is waited for.

    Raises:
        ConflictError: when ckptd reads it, here or in another process. Nothing was deleted.
    """
    own_saves.await_prefix(as_text(checkpoint_prefix))
    delete_files(as_text(checkpoint_prefix), checkpoint_format_version, meta_graph_suffix)


def delete_files(prefix: str, format_version: int, meta_graph_suffix: str) -> None:
    """Do what `remove_checkpoint` does, also in the thread of a save that is not over."""
    store, key = split_prefix(prefix)
    if format_version in _OLD_VERSIONS:
        store.delete([key])
        store.delete([meta_graph_key(key, meta_graph_suffix)])
        return
    shards = shard_keys_in_place(store, key)
    with unread(store, [index_key(key), *shards]) as is_unread:
        if not is_unread:
            raise ConflictError("it is being read, straight from the disk", key=store.location(key))
        store.delete([index_key(key)])
        store.delete([*shards, meta_graph_key(key, meta_graph_suffix)])


def meta_graph_key(key: str, suffix: str) -> str:
    """Return where the graph description of a checkpoint lies; all shards of a name share one."""
    return meta_key(_SHARD_OF_A_NAME.sub("", key), suffix)


def shard_keys_in_place(store: Store, key: str) -> list[str]:
    """Return the data files that there are for a prefix, of any shard count."""
    found = []
    for stat in store.list(key.rpartition("/")[0], deep=False):
        parsed = parse_shard_key(stat.key)
        if parsed is not None and parsed[0] == key:
            found.append(stat.key)
    return found


def _is_stored_relative(path: str, save_dir: str, save_relative_paths: bool) -> bool:
    return save_relative_paths if is_absolute(path) else not is_absolute(save_dir)


def _relative(path: str, save_dir: str) -> str:
    """Return `path` as seen from `save_dir`, textually; a URL that is not below it stays as it is."""
    if "://" in path or "://" in save_dir:
        below = save_dir.rstrip("/") + "/"
        return path.removeprefix(below)
    return os.path.relpath(path, save_dir or os.curdir)
