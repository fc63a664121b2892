"""Put the files of a checkpoint in place without a run: for copies and imports, which have no coordinator.

The order is that of every commit: shards, graph description, index, and only then are the files of a replaced
checkpoint removed. Replacing one never touches its files before the new index is in place, so the new shards need keys
of their own: they get them by having another number of shards.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import TracebackType

from ckptd.engine.catalog import commit as durable
from ckptd.engine.catalog import records
from ckptd.engine.catalog.commit import Files, OnStep, ignore_step
from ckptd.engine.catalog.deleting import BeingReadError, index_in_place, unread
from ckptd.engine.catalog.root import LOCK_KEY
from ckptd.errors import CkptdError, ConflictError, NotFoundError
from ckptd.format import names
from ckptd.format.state_file import CheckpointState
from ckptd.printable import counted
from ckptd.storage.base import Objects, ObjectWriter, Store
from ckptd.storage.keys import join
from ckptd.storage.lock_holder import LockHolder

_log = logging.getLogger(__name__)


class Placing:
    """One checkpoint being put in place. Use it as a context manager: on an error it removes what it put there.

    A crash leaves shards that no index names, which nothing reads.
    """

    def __init__(self, store: Store, key: str, *, overwrite: bool, on_step: OnStep = ignore_step) -> None:
        """Check what is at the destination.

        Raises:
            ConflictError: when there is a checkpoint and `overwrite` is False, or it is being read.
        """
        self._store = store
        self._key = key
        self._overwrite = overwrite
        self._on_step = on_step
        self._old = index_in_place(store, names.index_key(key))
        if self._old is not None and not overwrite:
            raise ConflictError("there is a checkpoint already", key=store.location(key))
        if self._old is not None:
            with unread(store, key, self._old.num_shards):
                pass  # better now than after everything is written
        self._finished: list[str] = []
        self._num_shards = 0

    def __enter__(self) -> Placing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            # What a second error leaves behind is no checkpoint, and the first error says more.
            with suppress(CkptdError):
                self._store.delete(self._finished)

    def choose_num_shards(self, wanted: int) -> int:
        """Return the number of shards to write: `wanted`, or, when overwriting, the next one whose keys are free.

        Raises:
            ConflictError: without `overwrite`, when files with that number are there, or a save is about to write them.
        """
        directory = self._key.rpartition("/")[0]
        taken = {record.num_shards for record in records.load(self._store, directory).found if self._is_of(record)}
        for key in self._store.keys(directory, self._key.rpartition("/")[2] + "."):
            parsed = names.parse_shard_key(key)
            if parsed is not None and parsed[0] == self._key:
                taken.add(parsed[2])
        if wanted in taken and not self._overwrite:
            raise ConflictError(
                f"another save of this prefix has begun {counted(wanted, 'shard')} and not finished; --force takes "
                "other names",
                key=self._store.location(self._key),
            )
        self._num_shards = next(count for count in range(wanted, wanted + len(taken) + 1) if count not in taken)
        return self._num_shards

    def _is_of(self, record: records.Record) -> bool:
        return record.prefix_key == self._key

    @contextmanager
    def shard(self, shard: int, size_bytes: int) -> Iterator[ObjectWriter]:
        """Yield a writer for one shard, which is durable when the block has ended. Write one shard at a time."""
        writer = self._store.create(names.shard_key(self._key, shard, self._num_shards), size_bytes)
        try:
            yield writer
            self._on_step(f"place.shard.{shard}")
            writer.finish()
        except BaseException:
            writer.abort()
            raise
        self._finished.append(writer.key)

    def commit(self, index: bytes, meta: bytes | None = None) -> None:
        """Make it a checkpoint: complete and durable on return, in place of the old one."""
        files = Files(names.index_key(self._key), index, names.meta_key(self._key), meta, self._overwrite)
        if meta is not None and self._old is None:
            # Put here and not by `commit`, so that we know whether we have to remove it again.
            self._on_step("place.meta")
            self._store.put(files.meta_key, meta)
            self._finished.append(files.meta_key)
            files = replace(files, meta=None)
        try:
            durable.commit(self._store, files, self._on_step)
        except BaseException:
            found = index_in_place(self._store, files.index_key)
            if found is not None and found.is_exactly(index):
                self._finished = []  # it is in place nevertheless: its shards must stay
            raise
        self._finished = []
        if self._old is None:
            return
        # Crash here: the new checkpoint, and shards of the old one that nothing reads.
        self._on_step("place.delete_old")
        count = self._old.num_shards or 0
        doomed = [] if meta is not None else [files.meta_key]
        try:
            with unread(self._store, self._key, count, is_in_place=False):
                self._store.delete([*doomed, *(names.shard_key(self._key, shard, count) for shard in range(count))])
        except BeingReadError:
            _log.warning("the data of the checkpoint that was at %s is being read, and stays", self._key)


def spread(sizes: Sequence[int], num_shards: int) -> list[list[int]]:
    """Cut a sequence of things, of these sizes in bytes, into at most `num_shards` runs of about equal bytes.

    Returns the things' numbers, run by run; no run is without bytes unless there are none at all.
    """
    total = sum(sizes)
    runs: list[list[int]] = [[]]
    before, current = 0, None
    for number, size in enumerate(sizes):
        if size:
            # Where its middle falls decides, so that a large thing draws no small ones after it.
            target = (2 * before + size) * num_shards // (2 * total)
            if current is not None and target != current:
                runs.append([])
            current = target
            before += size
        runs[-1].append(number)
    return runs


def announce(store: Store, key: str, saved_at: float, *, latest_filename: str = names.STATE_KEY) -> None:
    """Let the state file of the checkpoint's directory name it as the latest, after those that it lists.

    Raises:
        ConflictError: when a trainer or a daemon owns the directory: it would not know of the change.
        CorruptionError: when there is a state file that cannot be read. It stays as it is.
    """
    directory, _, name = key.rpartition("/")
    state_key = join(directory, latest_filename)
    with store.lock(join(directory, LOCK_KEY), holder=LockHolder.here("ckptd cp").line, takes_over=False):
        seen = durable.look(store, state_key)
        state = CheckpointState(name, ())
        if seen.data is not None:
            state = CheckpointState.decode(seen.data, store.location(state_key))
        listed = list(state.all_model_checkpoint_paths)
        times = list(state.all_model_checkpoint_timestamps)
        if len(times) != len(listed) or not times:
            times = []
        for at in reversed(range(len(listed))):
            if listed[at] in (name, store.location(key)):
                del listed[at]
                del times[at : at + 1]
        times = [*times, saved_at] if times else []
        state = replace(
            state,
            model_checkpoint_path=name,
            all_model_checkpoint_paths=(*listed, name),
            all_model_checkpoint_timestamps=tuple(times),
        )
        durable.publish(store, state_key, state.encode(), seen)


def read_meta(objects: Objects, key: str) -> bytes | None:
    """Return the graph description that is beside a checkpoint, None if there is none."""
    try:
        return objects.get(names.meta_key(key))
    except NotFoundError:
        return None
