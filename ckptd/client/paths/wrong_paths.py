"""Suggestions for a path at which there is no checkpoint."""

from __future__ import annotations

from ckptd.errors import CkptdError
from ckptd.format.foreign_files import HEAD_BYTES, recognized
from ckptd.format.names import INDEX_SUFFIX, STATE_KEY
from ckptd.storage.base import Store
from ckptd.storage.locations import split_prefix

_MOST_NAMED = 3
_FILE_SUFFIXES = (INDEX_SUFFIX, ".meta")
_IMPORTED = (".safetensors", ".npz")


def way_to_prefix(path: str) -> str:
    """Return what to append to the error that there is nothing at `path`; empty if there is no suggestion."""
    for suffix in _FILE_SUFFIXES:
        if path.endswith(suffix):
            return f"; a checkpoint is opened by its prefix: {path.removesuffix(suffix)}"
    if ".data-" in path:
        return f"; a checkpoint is opened by its prefix: {path[: path.rindex('.data-')]}"
    if path.startswith("~"):
        return "; ~ is the shell's, os.path.expanduser replaces it"
    try:
        return _beside(path)
    except CkptdError:  # it cannot be reached: the error says so already
        return ""


def way_in_directory(directory: Store, path: str) -> str:
    """Return what to append to the error that no state file of a directory names a checkpoint."""
    names = _prefixes(directory)
    if not names:
        return ""
    return f"; it holds {_listed(names)}: name one, or have `ckptd repair {path}` write the state file"


def _beside(path: str) -> str:
    bare = path.rstrip("/")
    store, key = split_prefix(bare)
    names = _prefixes(store)
    if bare != path and key in names:
        return f"; a checkpoint is opened by its prefix, without the slash: {bare}"
    try:
        head = store.get(key, limit_bytes=1 << 20)[:HEAD_BYTES]
    except CkptdError:
        return f"; there are {_listed(names)}" if names else ""
    if key == STATE_KEY or head.startswith(b"model_checkpoint_path"):
        return f"; this is a state file: open its directory, {bare[: -len(key)] or './'}"
    if key.endswith(_IMPORTED):
        return f"; `ckptd import {path} PREFIX` makes a checkpoint of this file"
    told = recognized(head)
    return f"; this is {told}" if told else "; this is a file, and no file of a checkpoint has such a name"


def _prefixes(store: Store) -> list[str]:
    return [key.removesuffix(INDEX_SUFFIX) for key in store.keys("") if key.endswith(INDEX_SUFFIX)]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[-_MOST_NAMED:]) + more
