"""Restoring objects: TensorFlow reads the files itself, as it may do so long after the call.

A variable that is created after `restore` gets its value then. So the files have to stay for as long as TensorFlow
waits for such variables. On this host's disk they do, as far as retention lets them. Files from elsewhere are copied
to a file system in memory, or to the temporary directory, until TensorFlow has released the checkpoint.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ckptd.client.paths import files, latest
from ckptd.engine.reading.bundle import Bundle
from ckptd.storage.locations import is_url
from ckptd.tensorflow.refusals import as_tensorflows

_MEMORY = Path("/dev/shm")  # noqa: S108 (a directory of our own is made in it)
_WILDCARDS = "*?[\\"
_ROOM_FACTOR = 2
"""All programs share this memory: this multiple of the size has to be free there."""


@as_tensorflows()
def restore(checkpoint: Any, save_path: latest.Path | None, options: Any = None) -> Any:
    """Restore a `tf.train.Checkpoint` from a prefix, which may be the URL of one in a bucket.

    Returns:
        What ``checkpoint.restore`` returns, for ``assert_consumed()`` and the like.

    Raises:
        NotFoundError, CorruptionError: of a bucket. For files, TensorFlow's own errors.
    """
    if save_path is not None and not is_url(latest.as_text(save_path)):
        path = latest.as_text(save_path)
        if not any(sign in path for sign in _WILDCARDS) or not latest.checkpoint_exists(path):
            return checkpoint.restore(save_path, options=options)
        return restore_copied(checkpoint, lambda directory: _linked(path, directory), 0, options)
    if save_path is None:
        return checkpoint.restore(save_path, options=options)
    store, key = latest.resolve(save_path)
    bundle = Bundle.open(store, key)
    size = sum(bundle.shard_size(shard) for shard in range(bundle.index.num_shards))
    return restore_copied(checkpoint, lambda directory: files.files_of(store, key, directory), size, options)


def _linked(path: str, directory: str) -> str:
    """Link the files of a checkpoint under a plain name, as TensorFlow would read their own name as a pattern."""
    at = Path(os.path.abspath(path))  # noqa: PTH100 (links on the way stay)
    for one in at.parent.iterdir():
        if one.name.startswith((f"{at.name}.index", f"{at.name}.data-")):
            Path(directory, f"checkpoint{one.name[len(at.name) :]}").symlink_to(one)
    return f"{directory}/checkpoint"


def restore_copied(checkpoint: Any, bring: Callable[[str], str], size_bytes: int, options: Any = None) -> Any:
    """Restore from the prefix that `bring` returns, which may lie in the directory that it is given.

    The directory is removed when TensorFlow releases the checkpoint, at the end of the process at the latest.
    """
    directory = _temporary_directory(size_bytes)
    try:
        status = checkpoint.restore(bring(directory), options=options)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    if not os.listdir(directory):  # noqa: PTH208
        os.rmdir(directory)  # noqa: PTH106
        return status
    # What waits for variables refers to this object; where a later TensorFlow has another, the process is the bound.
    awaited = getattr(status, "_checkpoint", None)
    weakref.finalize(awaited if awaited is not None else checkpoint, shutil.rmtree, directory, ignore_errors=True)
    return status


def _temporary_directory(size_bytes: int) -> str:
    try:
        has_room = shutil.disk_usage(_MEMORY).free > _ROOM_FACTOR * size_bytes
        return tempfile.mkdtemp(prefix="ckptd-restore-", dir=_MEMORY if has_room else None)
    except OSError:
        return tempfile.mkdtemp(prefix="ckptd-restore-")
