"""Where a Saver's checkpoints are: beside the path it is given, or below an address, as runs of a `Checkpointer`."""

from __future__ import annotations

import os
import posixpath
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from ckptd import threads
from ckptd.client.capture.arrays import Array
from ckptd.client.capture.buffers import RoomPool
from ckptd.client.capture.preparing import Preparation
from ckptd.client.capture.snapshot import Snapshot
from ckptd.client.checkpointer import Checkpointer
from ckptd.client.paths.latest import check_format, checkpoint_exists, join
from ckptd.client.paths.state_functions import meta_graph_key
from ckptd.client.saver.saver_directory import SaverDirectory, Target
from ckptd.client.saving import own_saves
from ckptd.client.saving.completion import Completion
from ckptd.client.saving.pending import PendingSave
from ckptd.client.saving.under_way import UnderWay
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.reading.bundle import Bundle
from ckptd.errors import CkptdError, InvalidRequestError, NotFoundError, UnavailableError
from ckptd.format.names import ANY_NAME, step_of
from ckptd.storage.locations import split_prefix

_GRAPH_ONLY = "_CKPTD_GRAPH_ONLY"
_STEP = re.compile(r"-\d+$", re.ASCII)


@dataclass(frozen=True, slots=True)
class Content:
    """What one save holds: the tensors, the number of data files, and the files that describe the graph, by suffix."""

    arrays: Mapping[str, Any]
    num_shards: int = 1
    meta_graph: bytes | None = None
    debug_info: bytes | None = None


Staging = Callable[[str, Sequence[int], Any], Array]
"""Name, shape and dtype → an array, see `Checkpointer.staging`."""


class CheckpointPlace(Protocol):
    """Where checkpoints are written, listed and read. One thread at a time."""

    def staging(self, target: Target) -> Staging:
        """Return a function that allocates arrays in the memory of the next save; waits while too many are pending."""

    def save(self, target: Target, content: Content, *, write_state: bool) -> PendingSave:
        """Begin to save; return once the arrays may be changed."""

    def open(self, path: str) -> Bundle:
        """Open a checkpoint for reading, after pending saves."""

    def directory(self) -> SaverDirectory | None:
        """Return the list of checkpoints, after pending saves, if it is kept here."""

    def paths(self) -> list[str]:
        """Return the prefixes that are listed, oldest first."""

    def settle(self, target: Target) -> None:
        """Wait until retention has deleted what it no longer keeps after a save."""

    def save_description(self, target: Target, meta_graph: bytes, debug_info: bytes | None) -> None:
        """Save the description of a graph without variables, durably on return."""

    def wait(self) -> None:
        """Wait for pending saves; raise the first error that was not raised yet."""

    def close(self) -> None:
        """Wait, and leave every run; the next use joins it again."""


class BesideThePath:
    """The given path is where the files are, as with TensorFlow; a store's URL is such a path, too."""

    def __init__(self, directory: SaverDirectory, timeout_s: float) -> None:
        self._directory = directory
        self._preparation = Preparation(RoomPool(keep=2))
        self._under_way = UnderWay(timeout_s, "a Saver")
        # One thread, so that saves are published in their order.
        self._writer = threads.Pool(1, "ckptd-saver")

    def staging(self, target: Target) -> Staging:
        """See `CheckpointPlace`."""
        self._under_way.raise_unseen()
        self._under_way.wait_for_room()
        return self._preparation.staging

    def save(self, target: Target, content: Content, *, write_state: bool) -> PendingSave:
        """See `CheckpointPlace`."""
        self._under_way.raise_unseen()
        target.check_directory()
        if write_state:
            target.check_state_file()
        self._under_way.wait_for_room()
        prepared = self._preparation.prepare(content.arrays)
        snapshot = Snapshot(prepared.inventory, prepared.placement, prepared.room)
        try:
            snapshot.capture()
        except BaseException:
            snapshot.release()
            raise
        finally:
            for room in prepared.outgrown:
                room.release()
        completion = Completion(step_of(target.prefix))
        self._under_way.add(completion)
        own_saves.add(own_saves.directory_of(*target.place), completion)
        try:
            self._writer.submit(partial(self._carry_out, completion, target, content, snapshot, write_state))
        except RuntimeError as error:
            failure = UnavailableError(f"the save can't begin, as no thread can be started: {error}")
            completion.fail(failure, is_known=True)
            snapshot.release()
            raise failure from error
        return PendingSave(completion)

    def _carry_out(
        self, completion: Completion, target: Target, content: Content, snapshot: Snapshot, write_state: bool
    ) -> None:
        began_at = time.monotonic()
        store, key = target.place
        try:
            if content.debug_info is not None:
                store.replace(meta_graph_key(key, "debug"), content.debug_info)
            self._directory.save(
                target,
                snapshot,
                content.meta_graph,
                holder="ckptd.tensorflow.Saver",
                num_shards=content.num_shards,
                write_state=write_state,
            )
            done = Checkpoint(
                prefix=store.location(key),
                step=completion.step,
                size_bytes=snapshot.size_bytes,
                num_shards=content.num_shards,
                saved_at=time.time(),
                duration_s=time.monotonic() - began_at,
                durability=store.durability,
            )
        except CkptdError as error:
            completion.fail(error)
        except BaseException as failure:  # it has to reach the caller, which is in another thread
            bug = CkptdError(f"a bug in ckptd ended {completion}: {failure!r}")
            bug.__cause__ = failure
            completion.fail(bug)
        else:
            completion.finish(done)
        finally:
            snapshot.release()

    def open(self, path: str) -> Bundle:
        """See `CheckpointPlace`."""
        self._under_way.wait_for_all()
        return open_at(path)

    def directory(self) -> SaverDirectory:
        """See `CheckpointPlace`."""
        self._under_way.wait_for_all()
        return self._directory

    def paths(self) -> list[str]:
        """See `CheckpointPlace`."""
        return self._directory.paths

    def settle(self, target: Target) -> None:
        """See `CheckpointPlace`: a save here ends with retention."""

    def save_description(self, target: Target, meta_graph: bytes, debug_info: bytes | None) -> None:
        """See `CheckpointPlace`: TensorFlow writes that file alone."""
        store, key = target.place
        store.replace(meta_graph_key(key, target.meta_graph_suffix), meta_graph)
        if debug_info is not None:
            store.replace(meta_graph_key(key, "debug"), debug_info)

    def wait(self) -> None:
        """See `CheckpointPlace`."""
        self._under_way.wait_for_all()
        self._under_way.raise_unseen()

    def close(self) -> None:
        """See `CheckpointPlace`; the list stays."""
        self.wait()


class BelowAnAddress:
    """The directory of a path is a run below an address, and retention is done there."""

    def __init__(self, address: str, options: Mapping[str, Any]) -> None:
        """Store the arguments of every `Checkpointer`; nothing is opened yet."""
        self._address = address
        self._options = dict(options)
        self._open: dict[str, tuple[tuple[str, str], Checkpointer]] = {}
        self._last_path: str | None = None

    def staging(self, target: Target) -> Staging:
        """See `CheckpointPlace`."""
        return self._checkpointer(*run_of(target.save_path), target.latest_filename).staging

    def save(self, target: Target, content: Content, *, write_state: bool) -> PendingSave:
        """See `CheckpointPlace`."""
        if content.debug_info is not None:
            raise InvalidRequestError("save_debug_info writes a file beside the checkpoint: leave the address out")
        run, name = run_of(target.save_path)
        self._last_path = target.save_path
        return self._checkpointer(run, name, target.latest_filename).save(
            _step_of(target),
            content.arrays,
            meta_graph=content.meta_graph,
            meta_graph_suffix=target.meta_graph_suffix,
            write_state=write_state,
            overwrite=True,  # a Saver replaces what is there
        )

    def open(self, path: str) -> Bundle:
        """See `CheckpointPlace`. What is not below the address may be a file of this host."""
        if "://" not in path:
            found = self.find(path)
            if found is not None:
                checkpointer, checkpoint = found
                return checkpointer.reader(checkpoint).bundle
            if not checkpoint_exists(path):
                raise InvalidRequestError(f"The passed save_path is not a valid checkpoint: {path}")
        return open_at(path)

    def find(self, path: str) -> tuple[Checkpointer, Checkpoint] | None:
        """Return the checkpoint of this prefix below the address, if there is one."""
        try:
            run, name = run_of(path)
            checkpointer = self._checkpointer(run, _STEP.sub("", name), None)
        except InvalidRequestError:  # no run has such a name
            return None
        checkpointer.wait()
        for checkpoint in checkpointer.checkpoints(name=ANY_NAME):
            if posixpath.basename(checkpoint.prefix) == name:
                return checkpointer, checkpoint
        return None

    def latest(self, directory: str, name: str) -> str | None:
        """Return the newest checkpoint of a directory, None if there is none; `name` is the next ones' base name."""
        run, name = run_of(f"{directory}/{name}")
        latest = self._checkpointer(run, name, None).latest(name=ANY_NAME)  # as the state file has it
        return None if latest is None else join(directory, posixpath.basename(latest.prefix))

    def directory(self) -> None:
        """See `CheckpointPlace`: the other end keeps the list, and knows it after a restart."""
        return None

    def paths(self) -> list[str]:
        """See `CheckpointPlace`."""
        max_to_keep = self._options["max_to_keep"]
        if self._last_path is None or not max_to_keep:
            return []
        run, name = run_of(self._last_path)
        above = os.path.dirname(self._last_path)  # noqa: PTH120 (kept as it was written)
        # Some stay for good, and one that has left may not have been deleted yet.
        listed = self._checkpointer(run, name, None).checkpoints(name=ANY_NAME)[-max_to_keep:]
        return [join(above, posixpath.basename(each.prefix)) for each in listed]

    def settle(self, target: Target) -> None:
        """See `CheckpointPlace`."""
        self._checkpointer(*run_of(target.save_path), target.latest_filename).settle(_step_of(target))

    def save_description(self, target: Target, meta_graph: bytes, debug_info: bytes | None) -> None:
        """See `CheckpointPlace`. It is part of a checkpoint there that holds a note alone, and no state file names."""
        content = Content({_GRAPH_ONLY: True}, meta_graph=meta_graph, debug_info=debug_info)
        self.save(target, content, write_state=False).result()

    def wait(self) -> None:
        """See `CheckpointPlace`."""
        for _, checkpointer in self._open.values():
            checkpointer.wait()

    def close(self) -> None:
        """See `CheckpointPlace`."""
        opened, self._open = self._open, {}
        for _, checkpointer in opened.values():
            checkpointer.close()

    def _checkpointer(self, run: str, name: str, latest_filename: str | None) -> Checkpointer:
        """Return the `Checkpointer` of a run, which a process joins once; a new one for another checkpoint name."""
        known = self._open.get(run)
        wanted = (name, latest_filename or "checkpoint")
        if known is not None:
            if latest_filename is None or known[0] == wanted:
                return known[1]
            known[1].close()
        made = Checkpointer(self._address, run, name=name, latest_filename=wanted[1], **self._options)
        self._open[run] = (wanted, made)
        return made


def _step_of(target: Target) -> int | None:
    return step_of(target.prefix) if target.prefix != target.save_path else None


def open_at(path: str) -> Bundle:
    """Open the checkpoint of this prefix, in TensorFlow's words when there is none."""
    if not checkpoint_exists(path):
        raise InvalidRequestError(f"The passed save_path is not a valid checkpoint: {path}")
    store, key = split_prefix(path)
    check_format(store, key)
    return Bundle.open(store, key)


def read_meta_graph(path: str, place: BelowAnAddress | None) -> bytes:
    """Return the bytes of a ``.meta`` file, from the address if it is there, else from the path or URL."""
    base, dot, suffix = path.rpartition(".")
    if place is not None and dot and "://" not in path:
        found = place.find(base)
        data = None if found is None else found[0].meta_graph(found[1], suffix=suffix)
        if data is not None:
            return data
    store, key = split_prefix(path)
    try:
        return store.get(key)
    except NotFoundError as error:
        raise NotFoundError(f"File {path} does not exist.") from error


def run_of(path: str) -> tuple[str, str]:
    """Return the run and the base name that a path means below an address.

    Raises:
        InvalidRequestError: when it has no directory, or is a URL.
    """
    if "://" in path:
        raise InvalidRequestError(f"{path} is a URL; below an address a path names a run and a checkpoint")
    run, name = posixpath.split(posixpath.normpath(path).lstrip("/"))
    if not run or not name:
        raise InvalidRequestError(
            f"below an address the directory of a path is the run, as in runs/mnist/model.ckpt; {path!r} has none"
        )
    return run, name
