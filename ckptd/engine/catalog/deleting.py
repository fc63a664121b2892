"""Deleting what is no longer kept, so that a crash leaves a whole checkpoint, or rubbish that a record names.

The state file goes first (`commit.publish` has named another by then, durably), then the index: from that moment there
is no checkpoint any more, only files. The record is last, because it is the proof that the files are ours.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property

from ckptd.engine.catalog import reserve
from ckptd.engine.catalog.commit import OnStep, ignore_step
from ckptd.engine.catalog.presence import has_object
from ckptd.engine.catalog.records import Record
from ckptd.engine.reading import indexes
from ckptd.errors import ConflictError, CorruptionError, NotFoundError
from ckptd.format import names
from ckptd.format.crc32c import crc32c
from ckptd.storage import holds
from ckptd.storage.base import Store


def set_aside(store: Store, record: Record, *, on_step: OnStep = ignore_step) -> None:
    """Take a checkpoint of ours away so that it can be brought back: only its index moves. Safe to repeat.

    Without an index there is no checkpoint, and its shards have names that no other save ever uses. So nothing large
    is copied, and it works the same on a disk and in a bucket.

    Raises:
        ConflictError: when the index in place may be another program's; nothing was changed.
    """
    try:
        data = store.get(record.index_key)
    except NotFoundError:
        return
    if not _is_ours(IndexInPlace(data, record.index_key), record):
        return
    # Crash here: a whole checkpoint, marked as deleted. `recovery` comes back to this.
    on_step("delete.aside")
    reserve.copy(store, record.index_key, data, record.aside_key)
    # Crash here: the same, and a copy of its index.
    on_step("delete.index")
    store.delete([record.index_key])


def copy_aside(store: Store, record: Record, *, on_step: OnStep = ignore_step) -> bool:
    """Copy the index of a checkpoint of ours aside, before another replaces it; say whether it is in place."""
    index = index_in_place(store, record.index_key)
    if index is None or not index.is_as_written_by(record):
        return False
    # Crash here: nothing has changed.
    on_step("replace.aside")
    reserve.copy(store, record.index_key, store.get(record.index_key), record.aside_key)
    return True


def copy_meta_aside(store: Store, record: Record, *, on_step: OnStep = ignore_step) -> None:
    """Copy the graph description of a checkpoint of ours aside, before another's takes its place."""
    data = store.get(record.meta_key)
    # Crash here: nothing has changed.
    on_step("replace.meta")
    reserve.copy(store, record.meta_key, data, record.aside_meta_key)


def bring_meta_back(store: Store, record: Record, *, on_step: OnStep = ignore_step) -> None:
    """Put the graph description in place again that was copied aside, if one was. Safe to repeat."""
    if record.meta_graph and has_object(store, record.aside_meta_key):
        on_step("undelete.meta")
        store.replace(record.meta_key, store.get(record.aside_meta_key))


def exchange(store: Store, record: Record, *, on_step: OnStep = ignore_step) -> None:
    """Put the index of one that was replaced in the place of its successor's, of which there is a copy."""
    data, version = store.get(record.aside_key), store.stat(record.index_key).version
    # Crash here: the successor is in place, as if nothing had happened.
    on_step("undelete.exchange")
    store.replace(record.index_key, data, if_version=version)


def bring_back(store: Store, record: Record, *, on_step: OnStep = ignore_step) -> None:
    """Put the index of one that was set aside in place again. The copy stays until the record says that it is back.

    Raises:
        NotFoundError: when there is no such copy.
        ConflictError: when there is an index in place already that is another one.
    """
    data = store.get(record.aside_key)
    # Crash here: as it was deleted; the undoing was never acknowledged.
    on_step("undelete.index")
    try:
        store.put(record.index_key, data)
    except ConflictError:
        if store.get(record.index_key) != data:
            raise


def is_aside(store: Store, record: Record) -> bool:
    """Say whether the copy is there that `bring_back` needs."""
    return record.deleted_at is not None and has_object(store, record.aside_key)


class BeingReadError(ConflictError):
    """A checkpoint is being read, and so it is not deleted now."""


@contextmanager
def unread(store: Store, prefix: str, num_shards: int | None, *, is_in_place: bool = True) -> Iterator[None]:
    """Make sure that nothing reads the checkpoint `prefix`, nor begins to while the block runs.

    Its data is looked at, which is its alone, and its index, unless another save's `is_in_place`.

    Raises:
        BeingReadError: when a process does.
    """
    keys = [names.shard_key(prefix, 0, num_shards)] if num_shards else []
    with holds.unread(store, [*keys, *([names.index_key(prefix)] if is_in_place else [])]) as is_unread:
        if not is_unread:
            raise BeingReadError(
                "it is being read from the disk; try again when that has ended", key=store.location(prefix)
            )
        yield


def drop(
    store: Store,
    record: Record,
    *,
    others: Collection[Record] = (),
    on_step: OnStep = ignore_step,
    is_unread: bool = False,
    leaves_record: bool = False,
) -> None:
    """Delete what is left of a checkpoint of ours that the state file no longer names. Safe to repeat.

    The index of another attempt stays, one of `others`, and so does the graph description unless that one has none.
    With `is_unread` the caller has made sure of that. With `leaves_record` it does about the record what is to be done.

    Raises:
        BeingReadError: when it is being read; nothing was deleted.
        ConflictError: when the index in place may be another program's; nothing was deleted.
    """
    with ExitStack() as stack:
        if not is_unread:
            stack.enter_context(unread(store, record.prefix_key, record.num_shards, is_in_place=False))
        index = index_in_place(store, record.index_key)
        if index is not None and _is_ours(index, record):
            if not is_unread:
                stack.enter_context(unread(store, record.prefix_key, None))
            # Crash here: a whole checkpoint, marked to be dropped. `recovery` comes back to this.
            on_step("drop.index")
            store.delete([record.index_key])
            index = None
        if record.deleted_at is not None:
            # Crash here: as `delete` left it. Without the copy the deletion is for good.
            on_step("drop.aside")
            store.delete([record.aside_key, record.aside_meta_key])
        with_meta = index is None or _has_no_meta(index, others)
        _delete_files(store, record, with_meta=with_meta, what="drop", on_step=on_step)
        if not leaves_record:
            _delete_record(store, record, what="drop", on_step=on_step)


def sweep(store: Store, record: Record, *, others: Collection[Record] = (), on_step: OnStep = ignore_step) -> None:
    """Delete what a save left that never got an index. Safe to repeat.

    The graph description goes too, unless one of `others`, the records of the same prefix, may need it.

    Raises:
        ConflictError: when an index in place may refer to these shards; nothing was deleted.
    """
    bury(store, record, others=others, on_step=on_step)
    _delete_record(store, record, what="sweep", on_step=on_step)


def bury(store: Store, record: Record, *, others: Collection[Record] = (), on_step: OnStep = ignore_step) -> None:
    """Do as `sweep`, and leave the record."""
    index = index_in_place(store, record.index_key)
    if index is None:
        with_meta = not others
    elif index.num_shards in (record.num_shards, None):
        is_tombstone = record.aborted_at is not None and index.num_shards is not None
        if not is_tombstone or any(has_object(store, key) for key in record.shard_keys):
            raise ConflictError("an index in place may refer to these shards", key=record.index_key)
        _delete_late_index(store, record.index_key, index, on_step)
        with_meta = not others
    else:
        with_meta = _has_no_meta(index, others)
    _delete_files(store, record, with_meta=with_meta, what="sweep", on_step=on_step)


def _delete_late_index(store: Store, key: str, index: IndexInPlace, on_step: OnStep) -> None:
    """Delete an index that came when its shards had been deleted, unless another replaces it at this moment."""
    version = store.stat(key).version
    if not index.is_exactly(store.get(key)):
        raise ConflictError("the index in place has just been replaced", key=key)
    # Crash here: an index without shards, which no program can load, and the record that tells of it.
    on_step("sweep.index")
    store.delete([key], if_version=version)


def _has_no_meta(index: IndexInPlace, others: Collection[Record]) -> bool:
    return any(index.refers_to_shards_of(other) and not other.meta_graph for other in others)


def _delete_files(store: Store, record: Record, *, with_meta: bool, what: str, on_step: OnStep) -> None:
    # Crash here: shards that no index refers to, and the record that names them.
    on_step(f"{what}.shards")
    store.delete(record.shard_keys)
    if record.meta_graph and with_meta:
        on_step(f"{what}.meta")
        store.delete([record.meta_key])


def _delete_record(store: Store, record: Record, *, what: str, on_step: OnStep) -> None:
    # Crash here: a record that names nothing.
    on_step(f"{what}.record")
    store.delete([record.key])


class IndexInPlace:
    """An index as found. Decoding a large one takes seconds, its checksum milliseconds: so that comes first."""

    def __init__(self, data: bytes, key: str) -> None:
        """Look at the bytes of the index at `key`."""
        self.crc32c = crc32c(data)
        self._data = data
        self._key = key

    @cached_property
    def num_shards(self) -> int | None:
        """How many shards it refers to, None if it cannot be decoded."""
        try:
            return indexes.decode(self._data, self._key).num_shards
        except CorruptionError:
            return None

    def is_exactly(self, data: bytes) -> bool:
        """Say whether it has these very bytes."""
        return self._data == data

    def is_as_written_by(self, record: Record) -> bool:
        """Say whether it is, byte for byte, the one that this save noted."""
        return record.index_crc32c is not None and self.crc32c == record.index_crc32c

    def refers_to_shards_of(self, record: Record) -> bool:
        """Say whether it refers to this save's shards: no other attempt has as many."""
        return self.is_as_written_by(record) or self.num_shards == record.num_shards


def index_in_place(store: Store, key: str) -> IndexInPlace | None:
    """Read the index at `key`, None if there is none."""
    try:
        return IndexInPlace(store.get(key), key)
    except NotFoundError:
        return None


def _is_ours(index: IndexInPlace, record: Record) -> bool:
    if index.is_as_written_by(record):
        return True
    if index.num_shards is None:
        raise ConflictError("the index in place cannot be decoded, so its owner is unknown", key=record.index_key)
    if index.num_shards != record.num_shards:
        return False
    if record.index_crc32c is not None:
        raise ConflictError("the index in place is not the one that this save wrote", key=record.index_key)
    return True
