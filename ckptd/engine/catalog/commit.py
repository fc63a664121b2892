"""The durable steps that turn sealed shards into a checkpoint, in order.

Every step returns when its effect survives a power cut. What a crash just before each step leaves is written beside
it; the whole table is in ``docs/commit.md``. Nothing here deletes anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ckptd.engine.catalog import reserve
from ckptd.engine.catalog.presence import NO_FILE, is_taken
from ckptd.errors import ConflictError, CorruptionError, NotFoundError
from ckptd.format.state_file import MAX_SIZE_BYTES
from ckptd.storage.base import Store

OnStep = Callable[[str], None]
"""Called with a durable step's name just before it: tests stop, fail or kill there."""


def ignore_step(step: str) -> None:
    """Pass by every step: the usual `OnStep`."""


@dataclass(frozen=True, slots=True)
class SeenState:
    """A state file as we last read or wrote it; None and None when there was none."""

    data: bytes | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Files:
    """What a commit puts in place besides the shards. `meta` is None when there is no graph description.

    With `overwrite` an index in place is replaced; only the very one of `index_version`, where that is given. With
    `replaces_meta` a graph description is; None is as for the index.
    """

    index_key: str
    index: bytes
    meta_key: str
    meta: bytes | None
    overwrite: bool
    index_version: str | None = None
    replaces_meta: bool | None = None


def commit(
    store: Store, files: Files, on_step: OnStep = ignore_step, *, confirm: Callable[[], None] = lambda: None
) -> None:
    """Make a sealed checkpoint real. The caller has finished every shard, so their bytes and names are durable.

    Before each step `confirm` raises if the caller has lost the run to another process meanwhile.

    Raises:
        ConflictError: when an index is in place and `overwrite` is False; nothing was changed but the graph
            description, which recovery removes with the rest of the attempt.
        CorruptionError: when what is read back is not what was written. A local store finds that out before an index is
            in place.
    """
    if files.meta is not None:
        # Crash here: shards that no index refers to. `recovery` sweeps them.
        confirm()
        on_step("commit.meta")
        if files.overwrite if files.replaces_meta is None else files.replaces_meta:
            store.replace(files.meta_key, files.meta)
        else:
            store.put(files.meta_key, files.meta)
    # Crash here: the same, and a graph description; on an overwrite the old checkpoint, whole, as the new shards
    # have keys of their own, with the new description beside it.
    confirm()
    on_step("commit.index")
    if files.overwrite:
        # One step from the old checkpoint to the new one: there is no moment in which neither is whole.
        store.replace(files.index_key, files.index, if_version=files.index_version)
    else:
        store.put(files.index_key, files.index)
    # Crash here: a whole checkpoint that no state file names. `recovery` adopts it.
    if not store.verifies_writes and store.get(files.index_key) != files.index:
        if not files.overwrite:
            store.delete([files.index_key])  # not acknowledged yet, and without it there is no checkpoint
        raise CorruptionError("the index differs when it is read back", key=files.index_key)


def publish(store: Store, key: str, state: bytes, seen: SeenState, on_step: OnStep = ignore_step) -> SeenState:
    """Make the state file say `state`, and read it back unless the store has done so itself. Returns it as it is now.

    Raises:
        ConflictError: when the state file is not the one we have seen: another process writes here too.
        CorruptionError: when what is read back is not what was written.
    """
    directory = key.rpartition("/")[0]
    on_step("publish.state")
    if seen.data is None:
        stat = store.put(key, state)
    else:
        try:
            stat = reserve.replace(store, directory, key, state, if_version=seen.version)
        except ConflictError as error:
            # Copied, touched or restored with the same content it has a new version and means the same.
            again = look(store, key)
            if again.data != seen.data:
                error.add_note("the state file was changed by another program; recovery reads it again")
                raise
            stat = reserve.replace(store, directory, key, state, if_version=again.version)
    if store.verifies_writes:
        return SeenState(state, stat.version)
    # Crash here: published. The caller has no answer, but finds the checkpoint when it looks.
    on_step("publish.read_back")
    found = store.get(key)
    if found != state:
        raise CorruptionError(
            "the state file differs when it is read back", key=key, expected=len(state), actual=len(found)
        )
    return SeenState(state, stat.version)


def look(store: Store, key: str) -> SeenState:
    """Read the state file and its version.

    Raises:
        CorruptionError: when it is longer than any state file, or what is there is no file.
    """
    try:
        # The version first: if the file is replaced in between, we hold an old version, and replacing fails.
        version = store.stat(key).version
        return SeenState(store.get(key, limit_bytes=MAX_SIZE_BYTES), version)
    except NotFoundError:
        if is_taken(store, key):
            raise CorruptionError(NO_FILE, key=key) from None
        return SeenState()
