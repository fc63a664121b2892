"""`CheckpointManager`: TensorFlow's, for `tf.train.Checkpoint` objects, over ckptd.

Source: TensorFlow ``tensorflow/python/checkpoint/checkpoint_management.py``. What is better than there: a save is whole
or not at all and durable on return, several processes save one checkpoint together, the asynchronous save stops
training only for one copy, and its error is not lost.
"""

from __future__ import annotations

import inspect
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from ckptd.client.checkpointer import Checkpointer
from ckptd.client.options import check_step
from ckptd.client.paths.latest import Path, as_text, join
from ckptd.client.paths.run_place import RunPlace
from ckptd.client.saving.pending import PendingSave
from ckptd.engine.checkpoint import Checkpoint
from ckptd.errors import ConflictError, InvalidRequestError
from ckptd.events.delivery import Receiver
from ckptd.format.names import ANY_NAME
from ckptd.storage.locations import is_url
from ckptd.tensorflow import restoring
from ckptd.tensorflow.arguments import check_options
from ckptd.tensorflow.object_graph import arrays_of_checkpoint, check_eager
from ckptd.tensorflow.refusals import as_tensorflows
from ckptd.tensorflow.reporting import log, report

if sys.version_info >= (3, 11):
    from typing import Self
else:
    from typing_extensions import Self

_OWNERS: weakref.WeakValueDictionary[tuple[str, str], CheckpointManager] = weakref.WeakValueDictionary()
"""The manager that saves into each run, until it is closed or dropped."""


class CheckpointManager:
    """Saves a `tf.train.Checkpoint`, numbers and keeps the last few, and restores the newest.

    ::

        checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer)
        manager = ckptd.tensorflow.CheckpointManager(checkpoint, "./run", max_to_keep=3)
        manager.restore_or_initialize()
        …
        manager.save()

    What it writes, stock ``tf.train.Checkpoint.restore`` reads, and the other way round. Several processes each have
    one, with the same state: every tensor is written once.
    """

    @as_tensorflows()
    def __init__(
        self,
        checkpoint: Any,
        directory: Path,
        max_to_keep: int | None,
        keep_checkpoint_every_n_hours: float | None = None,
        checkpoint_name: str = "ckpt",
        step_counter: Any = None,
        checkpoint_interval: int | None = None,
        init_fn: Any = None,
        last_checkpoint_step: int | None = None,
        *,
        address: Path | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        timeout_s: float = 600.0,
        token: str | None = None,
        ca: str | bytes | None = None,
        cert: str | bytes | None = None,
        key: str | bytes | None = None,
        on_event: Receiver | Iterable[Receiver] | None = None,
        progress: bool = False,
    ) -> None:
        """Describe what is saved and where; nothing is opened yet. The arguments are TensorFlow's, and a few more.

        Args:
            checkpoint: the `tf.train.Checkpoint`.
            directory: where the checkpoints go; with an address, the run below its root.
            max_to_keep: how many stay; None keeps all.
            keep_checkpoint_every_n_hours: of those that leave, one per so many hours stays for good; None: none.
            checkpoint_name: the base name of the checkpoints.
            step_counter: the variable that counts steps, for `checkpoint_interval`.
            checkpoint_interval: save only if there have been so many steps since the last save.
            init_fn: called by `restore_or_initialize` when there is no checkpoint.
            last_checkpoint_step: the step that was saved last, where `checkpoint_interval` counts from.
            address: a daemon's, or a store's; default: the environment's CKPTD_ADDRESS, else none: the engine works in
                this process, and it has to be the only one that saves.
            rank: of this process among those that save together; default: as for `Checkpointer`, from the environment.
            world_size: how many these are; likewise.
            timeout_s: the bound of every wait.
            token: shown to the daemon; default: the environment's CKPTD_TOKEN.
            ca: the authority that signed the daemon's certificate: PEM, or the path of a file with it; default: the
                environment's CKPTD_CA.
            cert: the client's own certificate, for a daemon with ``--client-ca``: PEM, or the path of a file
                with it; default: the environment's CKPTD_CERT.
            key: the private key of `cert`, likewise; default: the environment's CKPTD_KEY.
            on_event: called with each event of its saves and restores, as for `Checkpointer`.
            progress: draw a bar for each save that takes long, as for `Checkpointer`.

        Raises:
            InvalidRequestError: in TensorFlow's words, where it has this case.
        """
        if max_to_keep is not None and max_to_keep <= 0:
            raise InvalidRequestError(f"Expected a positive integer or `None` for `max_to_keep`, got {max_to_keep}.")
        if isinstance(max_to_keep, np.integer):
            max_to_keep = int(max_to_keep)
        if checkpoint_interval is not None and step_counter is None:
            raise InvalidRequestError("`step_counter` should be passed if `checkpoint_interval` is not None.")
        if not hasattr(type(checkpoint), "save_counter"):  # reading it from the object would make the variable
            raise InvalidRequestError(f"pass a tf.train.Checkpoint, not a {type(checkpoint).__name__}")
        self._checkpoint = checkpoint
        self._directory = as_text(directory)
        self._checkpoint_interval = checkpoint_interval
        self._step_counter = step_counter
        self._last_checkpoint_step = last_checkpoint_step
        self._init_fn = init_fn
        self._name = checkpoint_name
        place = self._place = RunPlace.of(self._directory, address)
        self._checkpointer = Checkpointer(
            place.address,
            place.run,
            rank=rank,
            world_size=world_size,
            name=checkpoint_name,
            max_to_keep=max_to_keep,
            keep_checkpoint_every_n_hours=keep_checkpoint_every_n_hours or None,
            retention="manager",
            timeout_s=timeout_s,
            token=token,
            ca=ca,
            cert=cert,
            key=key,
            on_event=on_event,
            progress=progress,
        )
        # TensorFlow's manager has no end: it is dropped, and so is this one with it; then another takes the directory.

    @property
    def directory(self) -> str:
        """The directory as it was given."""
        return self._directory

    @property
    def checkpoint(self) -> Any:
        """What is saved."""
        return self._checkpoint

    @property
    def checkpoint_interval(self) -> int | None:
        """How many steps there have to be between two saves."""
        return self._checkpoint_interval

    @property
    @as_tensorflows()
    def latest_checkpoint(self) -> str | None:
        """The prefix of the newest complete checkpoint, of any program; None if there is none."""
        latest = self._checkpointer.latest(name=ANY_NAME)
        return None if latest is None else self._place.prefix(latest.prefix)

    @property
    @as_tensorflows()
    def checkpoints(self) -> list[str]:
        """The prefixes that are managed, oldest first; without those that stay for good."""
        state = self._checkpointer.state()
        if state is None:
            return []
        if self._place.directory is not None and state.last_preserved_timestamp > time.time():
            return []  # the clock was set back: it is unknown which of them were to stay for good, so all do
        beside = self._place.directory or self._checkpointer.prefix_of(0).rpartition("/")[0]
        times = state.all_model_checkpoint_timestamps
        return [
            join(beside, path)
            for path, at in zip(state.all_model_checkpoint_paths, times, strict=False)
            if at > state.last_preserved_timestamp
        ]

    @as_tensorflows()
    def save(
        self,
        checkpoint_number: Any = None,
        check_interval: bool = True,
        options: Any = None,
        *,
        wait: bool | None = None,
    ) -> str | None:
        """Save the checkpoint under the next number; delete those beyond `max_to_keep`.

        A checkpoint of that number is replaced; at every moment one of the two is whole.

        Args:
            checkpoint_number: another number than `save_counter`, which is counted up all the same.
            check_interval: with a `checkpoint_interval`, save only if it has passed; else unless this step was saved.
            options: a `tf.train.CheckpointOptions`. With ``experimental_enable_async_checkpoint`` nothing waits, and
                ``experimental_write_callbacks`` are called at the end. An ``experimental_io_device`` of another host
                and an ``experimental_sharding_callback`` are refused.
            wait: return when the checkpoint is durable; otherwise as soon as the variables may be changed again. An
                error is raised by the next call then. Default: as `options` say, else True.

        Returns:
            The prefix; None if nothing was to be saved.

        Raises:
            InvalidRequestError: something of the checkpoint cannot be saved, or the number is none.
            ConflictError: a manager with another `checkpoint_name` saves into this directory.
            SessionAbortedError, StorageFullError, …: what ended the save.
        """
        began_at = time.monotonic()
        check_eager()
        check_options(options)
        self._claim_directory()
        if not self._is_due(check_interval):
            return None
        counter = self._checkpoint.save_counter
        counter.assign_add(1)
        number = _whole_number(counter if checkpoint_number is None else checkpoint_number)
        # This tells other ranks what is refused.
        pending = self._checkpointer.save(number, lambda: arrays_of_checkpoint(self._checkpoint), overwrite=True)
        prefix = self._place.prefix(self._checkpointer.prefix_of(number))
        report(pending, prefix, began_at)
        if wait is None:
            wait = not getattr(options, "experimental_enable_async_checkpoint", False)
        callbacks = list(getattr(options, "experimental_write_callbacks", None) or ())
        if wait:
            pending.result()
            self._checkpointer.settle(number)  # those beyond max_to_keep are deleted, as with TensorFlow
            _call(callbacks, prefix)
        elif callbacks:
            pending.add_done_callback(lambda ended: _call_if_saved(ended, callbacks, prefix))
        return prefix

    @as_tensorflows()
    def restore(self, save_path: Path | None = None, options: Any = None) -> Any:
        """Restore a checkpoint, by default the newest; return what ``tf.train.Checkpoint.restore`` returns.

        Also from where TensorFlow itself could not read: a bucket, or a daemon of another host.

        Raises:
            NotFoundError: no such checkpoint; for files, TensorFlow's own error.
        """
        self.sync()
        if self._place.directory is not None and not is_url(self._place.directory):
            path = self.latest_checkpoint if save_path is None else save_path
            return restoring.restore(self._checkpoint, path, options)
        found = self._find(save_path)
        if found is None:
            return restoring.restore(self._checkpoint, save_path, options)
        return restoring.restore_copied(
            self._checkpoint,
            lambda directory: self._checkpointer.files(found, copy_into=directory),
            found.size_bytes,
            options,
        )

    @as_tensorflows()
    def restore_or_initialize(self) -> str | None:
        """Restore the newest checkpoint and return its prefix; without one, call `init_fn` and return None."""
        check_eager()
        self.sync()
        latest = self.latest_checkpoint
        if latest is None:
            if self._init_fn is not None:
                self._init_fn()
            return None
        self.restore(latest)
        if self._checkpoint_interval is not None:
            self._last_checkpoint_step = _whole_number(self._step_counter)
        log.info("restored %s", latest)
        return latest

    @as_tensorflows()
    def prepare(self) -> None:
        """Make the first save as fast as the next ones, once all variables are there; returns soon. May be left out."""
        self._checkpointer.prepare(arrays_of_checkpoint(self._checkpoint))

    @as_tensorflows()
    def sync(self) -> None:
        """Wait for pending saves; raise the error of a save, if it was not raised yet.

        Raises:
            UnavailableError: when one has not ended in time; it goes on.
        """
        self._checkpointer.wait()

    @as_tensorflows()
    def close(self) -> None:
        """Wait for pending saves and release the directory. May be repeated; optional.

        Raises:
            CkptdError: the error of a save, if it was not raised yet.
        """
        self._leave_directory()
        self._checkpointer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave_directory()
        self._checkpointer.__exit__(kind, error, trace)

    def _claim_directory(self) -> None:
        """Refuse to save beside a manager of another name: what one saves would make the other's leave the list."""
        owner = _OWNERS.setdefault((self._place.address, self._place.run), self)
        if owner._name != self._name:
            raise ConflictError(
                f"another CheckpointManager of this process saves {owner._name!r} into this directory, and max_to_keep "
                "counts all checkpoints of a directory: give each a directory of its own, or close() that one first",
                key=self._directory,
                actual=self._name,
            )

    def _leave_directory(self) -> None:
        place = self._place.address, self._place.run
        if _OWNERS.get(place) is self:
            del _OWNERS[place]

    def _is_due(self, check_interval: bool) -> bool:
        """Return whether to save at this step, and note it as saved."""
        if self._checkpoint_interval is None:
            return True
        step, last = _whole_number(self._step_counter), self._last_checkpoint_step
        if last is not None and (step == last or (check_interval and step < last + self._checkpoint_interval)):
            return False
        self._last_checkpoint_step = step
        return True

    def _find(self, save_path: Path | None) -> Checkpoint | None:
        """Return the checkpoint of the run that has this prefix, or the newest."""
        if save_path is None:
            return self._checkpointer.latest(name=ANY_NAME)
        wanted = as_text(save_path)
        everything = self._checkpointer.checkpoints(name=ANY_NAME)
        found = [one for one in everything if self._place.prefix(one.prefix) == wanted]
        return found[-1] if found else None


def _whole_number(value: Any) -> int:
    """Return the value of a number, a variable or a tensor."""
    value = value.numpy() if callable(getattr(value, "numpy", None)) else value
    return check_step(value)


def _call(callbacks: Sequence[Callable[..., object]], prefix: str) -> None:
    """Call TensorFlow's callbacks, which take the prefix or nothing."""
    for callback in callbacks:
        if inspect.signature(callback).parameters:
            callback(prefix)
        else:
            callback()


def _call_if_saved(pending: PendingSave, callbacks: Sequence[Callable[..., object]], prefix: str) -> None:
    """Call them in the thread that ended the save, where no caller could catch their errors."""
    if pending.checkpoint is None:
        return
    try:
        _call(callbacks, prefix)
    except Exception:
        log.exception("a callback of the save of %s has failed", prefix)
