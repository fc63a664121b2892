"""A Saver's directory: where its next checkpoint goes, and the list of those before it. Every Saver of ckptd uses it.

Source: TensorFlow ``tensorflow/python/training/saver.py``.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ckptd.client.capture.snapshot import Snapshot
from ckptd.client.direct.engines import holder_here
from ckptd.client.paths.latest import Path as AnyPath
from ckptd.client.paths.latest import as_text
from ckptd.client.paths.state_functions import (
    check_state_path,
    delete_files,
    get_checkpoint_mtimes,
    state_of,
    write_state,
)
from ckptd.client.saver.overwriting import write_over
from ckptd.engine.catalog.tensorflow_rules import SaverHousekeeping
from ckptd.engine.clock import Clock
from ckptd.engine.offline import ownership
from ckptd.errors import CkptdError, ConflictError, InvalidRequestError
from ckptd.format.names import STATE_KEY, prefix_for
from ckptd.format.saver_pb2 import SaverDef
from ckptd.storage.base import Store
from ckptd.storage.capabilities import local_path
from ckptd.storage.locations import split_prefix
from ckptd.storage.lock_holder import LockHolder

_log = logging.getLogger("ckptd.saver")


@dataclass(frozen=True, slots=True)
class Target:
    """Where one save goes.

    Attributes:
        save_path: as the caller gave it, without the step.
        prefix: with the step.
        latest_filename: the state file's name.
        meta_graph_suffix: of the file that describes the graph.
    """

    save_path: str
    prefix: str
    latest_filename: str = STATE_KEY
    meta_graph_suffix: str = "meta"

    @classmethod
    def of(
        cls,
        save_path: AnyPath,
        step: int | None,
        latest_filename: str | None,
        meta_graph_suffix: str,
        *,
        pads_step: bool,
        is_sharded: bool,
    ) -> Target:
        """Check what `Saver.save` was given; `InvalidRequestError` in TensorFlow's words."""
        path, latest_filename = as_text(save_path), latest_filename or STATE_KEY
        if "/" in latest_filename:
            raise InvalidRequestError("'latest_filename' must not contain path components")
        if step is not None:
            prefix = prefix_for(path, step, pads_step)
        elif not is_sharded and os.path.basename(path) == latest_filename:  # noqa: PTH119 (may be a URL)
            raise InvalidRequestError(f"'latest_filename' collides with 'save_path': '{latest_filename}' and '{path}'")
        else:
            prefix = path
        return cls(path, prefix, latest_filename, meta_graph_suffix)

    @property
    def place(self) -> tuple[Store, str]:
        """The store and the key of the checkpoint."""
        return split_prefix(self.prefix)

    def check_directory(self) -> None:
        """Refuse a directory whose parent is missing, in TensorFlow's words; one missing directory will be created.

        A file in the place of either is no directory.
        """
        store, _ = self.place
        path = local_path(store)
        if path is None:
            return
        directory = Path(path)
        if not directory.parent.is_dir() or (directory.exists() and not directory.is_dir()):
            raise InvalidRequestError(f"Parent directory of {self.save_path} doesn't exist, can't save.")

    def check_state_file(self) -> None:
        """Refuse a checkpoint whose name is that of the state file, before anything is written."""
        check_state_path(os.path.dirname(self.save_path), self.latest_filename, self.prefix)  # noqa: PTH120


class SaverDirectory:
    """Writes checkpoints, publishes them in the state file, and deletes those that leave the list.

    One thread at a time saves. Any may call `paths`.
    """

    def __init__(self, max_to_keep: int, hours: float, clock: Clock, *, save_relative_paths: bool = False) -> None:
        """Begin with an empty list; the hours count from here."""
        self._kept = SaverHousekeeping(max_to_keep, hours, clock.wall_s())
        self._clock = clock
        self._save_relative_paths = save_relative_paths
        self._undeleted: list[tuple[str, str]] = []  # paths that could not be deleted yet, with their .meta suffix

    @property
    def paths(self) -> list[str]:
        """The prefixes that are listed, oldest first; always empty when nothing is ever deleted."""
        return self._kept.paths

    def set_paths(self, paths: list[str]) -> None:
        """Set the list to checkpoints of unknown age: they count as new, so housekeeping keeps them for good."""
        _check_list(paths)
        self._kept.last = [(as_text(path), float("inf")) for path in paths]

    def set_paths_with_time(self, paths_with_time: list[tuple[str, float]]) -> None:
        """Set the list: (prefix, when it was saved) each, oldest first."""
        _check_list(paths_with_time)
        self._kept.last = [(as_text(path), float(at)) for path, at in paths_with_time]

    def recover(self, paths: Sequence[AnyPath]) -> None:
        """Take over the list of an earlier process; those that no longer exist are left out."""
        found = []
        for path in map(as_text, paths):
            found += [(path, at) for at in get_checkpoint_mtimes([path])]
        self._kept.recover(found)

    def save(
        self,
        target: Target,
        snapshot: Snapshot,
        meta_graph: bytes | None,
        *,
        holder: str,
        num_shards: int = 1,
        write_state: bool = True,
    ) -> None:
        """Write one checkpoint, publish it, and delete what leaves the list; all of it durable on return.

        Args:
            target: where to.
            snapshot: what; it stays the caller's.
            meta_graph: bytes for the file beside it, None for no such file.
            holder: the name of the writer, as shown to processes that are refused meanwhile.
            num_shards: how many data files.
            write_state: False publishes, lists and deletes nothing.

        Raises:
            ConflictError: when a daemon or a `Checkpointer` works in this directory; `actual` names it.
            StorageFullError, UnavailableError, …: nothing was published.
        """
        store, key = target.place
        holder_line = LockHolder.here(holder).line
        with _unowned(store, holder_line):
            write_over(store, key, snapshot, meta_graph, target.meta_graph_suffix, num_shards=num_shards)
            if write_state:
                self._publish(target)
                self._delete_surplus(target.meta_graph_suffix)

    def _publish(self, target: Target) -> None:
        """Note the checkpoint and write the state file; what leaves the list is absent from it already."""
        noted = copy.deepcopy(self._kept)
        noted.record(target.prefix, self._clock.wall_s())
        directory = os.path.dirname(target.save_path)  # noqa: PTH120
        state = state_of(directory, target.prefix, noted.paths, save_relative_paths=self._save_relative_paths)
        write_state(directory, target.latest_filename, target.prefix, state)
        self._kept = noted  # only now: a save that could not be published is not in the list

    def _delete_surplus(self, suffix: str) -> None:
        """Delete the checkpoint that left the list, unless it is to be kept for good.

        The save is acknowledged whatever happens here: what cannot be deleted now is tried again at the next one.
        """
        leaving = self._kept.next_victim()
        if leaving is not None and not leaving.is_kept:
            self._undeleted.append((leaving.path, suffix))
        staying = {_location(path) for path in self.paths}
        # One checkpoint can be in the list under two spellings, ./m-5 and m-5: it goes with the last of them.
        doomed = [(path, suffix) for path, suffix in self._undeleted if _location(path) not in staying]
        self._undeleted = []
        for path, suffix_then in doomed:
            try:
                delete_files(path, SaverDef.V2, suffix_then)
            except CkptdError as error:
                _log.warning("Ignoring: %s could not be deleted: %s", path, error)
                self._undeleted.append((path, suffix_then))


@contextmanager
def _unowned(store: Store, holder_line: str) -> Iterator[None]:
    """Do what `ownership.unowned` does; if this process itself owns the directory, the error says so."""
    with ExitStack() as stack:
        try:
            stack.enter_context(ownership.unowned(store, holder_line))
        except ConflictError as error:
            if LockHolder.parse(error.actual) != holder_here():
                raise
            raise ConflictError(
                f"a Checkpointer of this process saves into {store.url}, and keeps the list of what is there; a Saver "
                "keeps a list of its own, and would delete by that. Save through the Checkpointer, close() it first, "
                "or give the Saver another directory",
                actual=error.actual,
            ) from None
        yield


def _location(path: str) -> str:
    store, key = split_prefix(path)
    return store.location(key)


def _check_list(value: object) -> None:
    if not isinstance(value, list):
        raise InvalidRequestError(f"the last checkpoints are a list, not a {type(value).__name__}")
