"""From what a state file says to checkpoints of this store, also after the directory was moved, linked or mounted.

A path is taken as it stands first. If no index is there, the checkpoint of that name beside the state file is meant: a
directory that came from another machine still carries that machine's paths, with backslashes if it runs Windows. If
there is none either, directories are compared by their identity: through a link or a second mount one has two names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ckptd.errors import CorruptionError, InvalidRequestError, NotFoundError
from ckptd.format import names
from ckptd.format.state_file import CheckpointState
from ckptd.storage.base import Store
from ckptd.storage.capabilities import local_path
from ckptd.storage.keys import join

_LONGEST_PATH = 4096
_LATEST_S = 253402300799.0  # the last second of the year 9999: a time after it is no time


@dataclass(frozen=True, slots=True)
class Sighting:
    """Where a path of a state file leads.

    Attributes:
        key: of the prefix in the store, None when it is elsewhere.
        how: how it was found, in words; "" when the path says it as it is.
    """

    key: str | None
    how: str = ""


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
    for at in (*state.all_model_checkpoint_timestamps, state.last_preserved_timestamp):
        if not abs(at) <= _LATEST_S:  # retention goes by it: no number that compares with nothing
            raise CorruptionError("this state file has an impossible time", key=key, actual=at)
    return state


def in_order(state: CheckpointState) -> list[str]:
    """Return the paths that a state lists, as written there, each once, oldest first, the latest last."""
    latest = state.model_checkpoint_path
    # A person who rolls back edits the first line only: it decides, wherever the list has it.
    return [*dict.fromkeys(path for path in state.all_model_checkpoint_paths if path != latest), latest]


def resolve(store: Store, directory: str, path: str) -> str | None:
    """Return the key of the prefix that a state file in `directory` names by `path`; None when it is elsewhere."""
    return find(store, directory, path).key


def find(store: Store, directory: str, path: str) -> Sighting:
    """Find the checkpoint that a state file in `directory` names by `path`. Looks into the store only if it must."""
    as_written = _as_written(store, directory, path)
    if as_written is not None and (_directory_of(as_written) == directory and "\\" not in path):
        return Sighting(as_written)
    if as_written is not None and _has_index(store, as_written):
        return Sighting(as_written)
    name = path.replace("\\", "/").rstrip("/").rpartition("/")[2]
    beside = join(directory, name)
    if beside != as_written and name not in ("", ".", "..") and _has_index(store, beside):
        return Sighting(beside, "by its name, beside the state file")
    same = next((key for key in _of_the_same_directory(store, path) if _has_index(store, key)), None)
    if same is not None:
        return Sighting(same, "by the identity of its directory")
    return Sighting(as_written)


def _as_written(store: Store, directory: str, path: str) -> str | None:
    if _is_absolute(path):
        root = store.url.rstrip("/") + "/"
        if not path.startswith(root):
            return None
        key = path[len(root) :]
    else:
        key = join(directory, path)
    key = os.path.normpath(key)
    return None if key.startswith(("../", "/")) or key in ("..", ".") else key


def _of_the_same_directory(store: Store, path: str) -> Iterator[str]:
    """Yield the key of `path` if one of the directories above it is the root of `store` under another name."""
    if not path.startswith("/") or len(path) > _LONGEST_PATH:
        return  # of a longer one no system has a file, and taking it apart would take hours
    parts = os.path.normpath(path).split("/")[1:]
    found: list[str] = []
    try:
        # From the top: what is in a directory that is not there is not there either. A state file may hold half a
        # million paths of another host, so the first question is the cheapest.
        Path("/" + parts[0]).stat()
        root = local_path(store)
        if root is None:
            return
        status = Path(root).stat()
        for depth in range(1, len(parts)):
            if os.path.samestat(Path("/" + "/".join(parts[:depth])).stat(), status):
                found.append("/".join(parts[depth:]))
    except (OSError, ValueError):
        pass
    yield from reversed(found)


def _is_absolute(path: str) -> bool:
    return path.startswith("/") or "://" in path


def _directory_of(key: str) -> str:
    return key.rpartition("/")[0]


def _has_index(store: Store, key: str) -> bool:
    try:
        store.stat(names.index_key(key))
    except (NotFoundError, InvalidRequestError):  # the latter: a name that no object of a store can have
        return False
    return True
