"""Where the newest checkpoint is: the functions that TensorFlow's users know, on paths and store URLs.

Only the state file counts, as with TensorFlow: no directory is searched for something newer. Unlike TensorFlow, what it
names is also found after the directory was moved, and a state file that can't be read is an error and not "no
checkpoint": a trainer that believed it would start from nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

from ckptd.client.paths.wrong_paths import way_in_directory, way_to_prefix
from ckptd.client.saving import own_saves
from ckptd.engine.catalog import listed, presence, survey
from ckptd.engine.log import warn_once
from ckptd.errors import CkptdError, InvalidRequestError, NotFoundError
from ckptd.format.names import STATE_KEY, index_key, step_of
from ckptd.format.state_file import MAX_SIZE_BYTES, CheckpointState
from ckptd.storage.base import ObjectStat, Store
from ckptd.storage.locations import open_store, split_prefix

Path = str | os.PathLike[str]
"""A path or a store's URL, as users may write them."""

POLL_S = 1.0


def as_text(path: Path) -> str:
    """Return a path or URL as text."""
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise InvalidRequestError("a path or URL is a str or a pathlib.Path", actual=repr(path))
    return text


def get_checkpoint_state(directory: Path, latest_filename: str | None = None) -> CheckpointState | None:
    """Return what the state file of a directory says, None if there is none; relative paths become usable ones.

    What this process itself saves there is waited for.

    Raises:
        CorruptionError: when the file can't be parsed, or what lies there is no file.
        InvalidRequestError: when it names no checkpoint, which is never written, or `latest_filename` is a path.
    """
    own_saves.await_beside(*open_state(as_text(directory), latest_filename))
    return _state_of(as_text(directory), latest_filename)


def _state_of(directory: str, latest_filename: str | None) -> CheckpointState | None:
    store, key = open_state(directory, latest_filename)
    state = presence.read_state(store, key)
    if state is None:
        return None
    if not state.model_checkpoint_path:
        raise InvalidRequestError(f"Invalid checkpoint state loaded from {directory}")
    return replace(
        state,
        model_checkpoint_path=join(directory, state.model_checkpoint_path),
        all_model_checkpoint_paths=tuple(join(directory, path) for path in state.all_model_checkpoint_paths),
    )


def latest_checkpoint(directory: Path, latest_filename: str | None = None) -> str | None:
    """Return the prefix of the checkpoint that the state file names, None if there is no such file or checkpoint.

    In a directory that was moved, this is the checkpoint of that name beside the state file, which TensorFlow does not
    find. If no such checkpoint exists it is None, as with TensorFlow; the log then names what is whole there,
    and `Checkpointer.latest` takes it. What this process itself saves there is waited for.

    Raises as `get_checkpoint_state`.
    """
    own_saves.await_beside(*open_state(as_text(directory), latest_filename))
    return _latest(directory, latest_filename)


def _latest(directory: Path, latest_filename: str | None = None) -> str | None:
    state = _state_of(as_text(directory), latest_filename)
    if state is None:
        return None
    unreachable: CkptdError | None = None
    try:
        if find_stat(state.model_checkpoint_path) is not None:
            return state.model_checkpoint_path
    except CkptdError as error:  # the directory may come from a bucket that this host cannot reach
        unreachable = error
    directory = as_text(directory)
    store, key = open_state(directory, latest_filename)
    with suppress(NotFoundError):  # deleted meanwhile
        path = listed.listed_paths(store.get(key, limit_bytes=MAX_SIZE_BYTES), key)[-1]
        sighting = listed.find(store, "", path)
        if sighting.key is not None and find_stat(join(directory, sighting.key)) is not None:
            warn_once(f"{store.location(key)}: it names {path}, which is found {sighting.how}")
            return join(directory, sighting.key)
    if unreachable is not None:
        raise unreachable
    newest = survey.newest_whole(store, "", latest_filename or STATE_KEY)
    if newest is not None:
        warn_once(
            f"{store.location(key)}: it names {state.model_checkpoint_path}, which is not there. The newest whole "
            f"checkpoint there is {newest.prefix}; `ckptd repair {directory or os.curdir}` makes the state file name it"
        )
    return None


def checkpoint_exists(prefix: Path) -> bool:
    """Say whether there is a checkpoint of this prefix: its index or, of the old format, a file of just this name.

    The name is taken as it is: no character is a wildcard. If this process saves it just now, that is waited for.
    """
    own_saves.await_prefix(as_text(prefix))
    return find_stat(prefix) is not None


def find_stat(prefix: Path) -> ObjectStat | None:
    """Describe the object that makes a checkpoint exist, see `checkpoint_exists`; None if there is none."""
    store, key = split_prefix(as_text(prefix))
    for candidate in (index_key(key), key):
        try:
            return store.stat(candidate)
        except NotFoundError:
            continue
    return None


def open_state(directory: str, latest_filename: str | None) -> tuple[Store, str]:
    """Return the store and the key of a directory's state file; "" is the working directory.

    Raises:
        InvalidRequestError: when `latest_filename` is a path.
    """
    name = latest_filename or STATE_KEY
    if "/" in name:
        raise InvalidRequestError("'latest_filename' must not contain path components", actual=name)
    return split_prefix(join(directory, name))


def checkpoints_iterator(
    directory: Path,
    min_interval_secs: float = 0,
    timeout: float | None = None,
    timeout_fn: Callable[[], bool] | None = None,
    *,
    sleep: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.monotonic,
) -> Iterator[str]:
    """Yield the prefix of the newest checkpoint each time there is a newer one, looking once a second.

    Checkpoints that are replaced by newer ones between two looks are skipped.

    Args:
        directory: where the state file is.
        min_interval_secs: at least this long from one yield to the next.
        timeout: how long to wait for a newer one before `timeout_fn` is called; None waits for ever.
        timeout_fn: returns true to end. It is called after every yield too. None ends at the first timeout.
        sleep: waits, in tests too.
        now: seconds on a clock that only runs forward.
    """
    known: str | None = None
    while True:
        newer = _wait_for_newer(directory, known, timeout, sleep, now)
        if newer is None and timeout_fn is None:
            return
        if newer is not None:
            known = newer
            yielded_at = now()
            yield newer
            rest = yielded_at + min_interval_secs - now()
            if rest > 0:
                sleep(rest)
        if timeout_fn is not None and timeout_fn():
            return


def resolve(prefix_or_directory: Path) -> tuple[Store, str]:
    """Return the store and the key of the checkpoint that is meant: this prefix, or the newest of this directory.

    Raises:
        NotFoundError: in TensorFlow's words.
    """
    prefix_or_directory = as_text(prefix_or_directory)
    if not prefix_or_directory.endswith("/"):
        store, key = _split(prefix_or_directory)
        if key:
            own_saves.await_beside(store, key, step_of(key))
        if key and _has_index(store, key):
            return store, key
    own_saves.await_beside(*open_state(prefix_or_directory, None))  # its first save may be under way
    directory = open_store(prefix_or_directory, confined=False)
    if next(iter(directory.list("")), None) is None:
        raise NotFoundError(
            "Unsuccessful TensorSliceReader constructor: Failed to find any matching files for "
            + prefix_or_directory
            + way_to_prefix(prefix_or_directory)
        )
    latest = latest_checkpoint(prefix_or_directory)
    if latest is None:
        raise NotFoundError(
            f"Couldn't find 'checkpoint' file or checkpoints in given directory {prefix_or_directory}"
            + way_in_directory(directory, prefix_or_directory)
        )
    store, key = split_prefix(latest)
    check_format(store, key)
    return store, key


def check_format(store: Store, key: str) -> None:
    """Refuse a checkpoint that is a single file: the old format, which is found as TensorFlow finds it but not read."""
    if not _has_index(store, key):
        raise NotFoundError("no index: this is a checkpoint of the old format V1, or none", key=store.location(key))


def _split(path: str) -> tuple[Store, str]:
    """Split a prefix; what has no last component, such as ``.``, is a directory and gives an empty key."""
    try:
        return split_prefix(path)
    except InvalidRequestError:
        return open_store(path, confined=False), ""


def _wait_for_newer(
    directory: Path, known: str | None, timeout: float | None, sleep: Callable[[float], None], now: Callable[[], float]
) -> str | None:
    deadline = None if timeout is None else now() + timeout
    while True:
        latest = _latest(directory)
        if latest is not None and latest != known:
            return latest
        if deadline is not None and now() + POLL_S > deadline:
            return None
        sleep(POLL_S)


def _has_index(store: Store, key: str) -> bool:
    try:
        store.stat(index_key(key))
    except NotFoundError:
        return False
    return True


def is_absolute(path: str) -> bool:
    """Say whether a path or URL means the same from everywhere."""
    return path.startswith("/") or "://" in path


def join(directory: str, path: str) -> str:
    """Return a path of a state file as seen from the working directory; nothing is normalised."""
    if not directory or is_absolute(path):
        return path
    return directory + path if directory.endswith("/") else f"{directory}/{path}"
