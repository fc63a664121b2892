"""`CheckpointManager`: Orbax's way of saving, over a `Checkpointer`."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from types import TracebackType
from typing import Any, NoReturn

from jax.experimental import multihost_utils

from ckptd.client.checkpointer import Checkpointer
from ckptd.client.options import check_step
from ckptd.client.restoring.reader import CheckpointReader
from ckptd.client.saving.pending import PendingSave
from ckptd.errors import CkptdError, ConflictError, InvalidRequestError, NotFoundError, UnavailableError
from ckptd.jax import places
from ckptd.jax.items import as_composite, load_args, tree_of
from ckptd.jax.loading import describe, load
from ckptd.jax.options import CheckpointManagerOptions
from ckptd.jax.refusals import as_orbaxs
from ckptd.jax.saving import held_arrays, to_arrays

if sys.version_info >= (3, 11):
    from typing import Self
else:
    from typing_extensions import Self

_LOG = logging.getLogger(__name__.rpartition(".")[0])  # ckptd.jax
_MAX_UNDER_WAY = 2  # saves of a `Checkpointer`
_LOOK_S = 0.1  # between two looks for what another process deletes

_ABSENT = {
    "directory": "checkpoints are files named after their step; `checkpointer.checkpoints()` has their prefixes",
    "metadata": "`item_metadata(step)` has shapes and dtypes; what else describes a step is saved in the tree",
    "metrics": "they are saved in the tree",
}
"""What Orbax's manager has and this one has not, and what to do instead."""


class CheckpointManager:
    """Saves and restores pytrees of one training job, with the methods of Orbax's class of this name.

    Every process of the job has one and makes the same calls. For one thread.

    Attributes:
        checkpointer: what it works with, for everything that Orbax has no name for: `pin`, `watch`, `undelete`.
        options: when it saves, what it keeps.
    """

    @as_orbaxs
    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        options: Any = None,
        item_names: Any = None,
        run: str | None = None,
        address: str | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        name: str = "model.ckpt",
        timeout_s: float = 600.0,
        token: str | None = None,
        ca: str | bytes | None = None,
        copy_in_background: bool = True,
        **changes: Any,
    ) -> None:
        """Describe the job; nothing is connected yet.

        Args:
            directory: where the checkpoints lie, a path or a store's URL; or the address of a daemon.
            options: `CheckpointManagerOptions`, ours or Orbax's.
            item_names: with these, `restore` without a target and `item_metadata` return Orbax's ``Composite``, as
                Orbax does; the names themselves come with what is saved.
            run: below the daemon's root, or below the directory; default: the directory's path.
            address: of a daemon; default: the environment's CKPTD_ADDRESS, else direct mode in the directory.
            rank: of this process; default: that of `jax.distributed` if it is initialised, else as for `Checkpointer`.
            world_size: likewise.
            name: base name of the checkpoints.
            timeout_s: the bound of every wait.
            token: shown to the daemon; default: the environment's CKPTD_TOKEN.
            ca: the authority that signed the daemon's certificate; default: the environment's CKPTD_CA.
            copy_in_background: `save` returns before JAX's arrays are copied, and holds them until they are. Memory
                that is donated meanwhile is not used again, so for that long there is one more state. False: it
                returns when they are copied.
            changes: single options by their names, ``max_to_keep=3``.

        Raises:
            InvalidRequestError: for anything above that can't be right.
        """
        self.options = CheckpointManagerOptions.of(options, changes)
        address, run = places.place(directory, address, run)
        rank, world_size = places.member(rank, world_size)
        interval = self.options.keep_time_interval
        self.checkpointer = Checkpointer(
            address,
            run,
            rank=rank,
            world_size=world_size,
            name=name,
            max_to_keep=self.options.max_to_keep,
            keep_checkpoint_every_n_hours=None if interval is None else interval.total_seconds() / 3600,
            retention="manager",
            timeout_s=timeout_s,
            token=token,
            ca=ca,
        )
        self._latest: int | None = None
        self._has_looked = False
        self._told_of: int | None = None
        self._has_items = bool(item_names)
        self._copies_in_background = copy_in_background
        self._under_way: list[PendingSave] = []
        self._to_pin: list[PendingSave] = []

    @as_orbaxs
    def save(
        self,
        step: int,
        items: Any = None,
        *,
        args: Any = None,
        force: bool = False,
        overwrite: bool = False,
        metrics: Any = None,
        custom_metadata: Any = None,
    ) -> bool:
        """Save a pytree, if this step's turn has come; return once its arrays may be donated and others changed.

        Args:
            step: the training step.
            items: the pytree; see `to_arrays`.
            args: the same in Orbax's words: whatever has it as ``item``, or a mapping of names to such.
            force: save although `should_save` says no.
            overwrite: replace a checkpoint of this step.
            metrics: refused: they belong in the tree.
            custom_metadata: likewise.

        Returns:
            Whether it is being saved.

        Raises:
            InvalidRequestError: naming the leaf that can't be saved.
            ConflictError: the step is there already.
            CkptdError: what ended an earlier save.
        """
        if items is not None and args is not None:
            raise InvalidRequestError("what is saved is given once, as such or in `args`")
        for name, given in (("metrics", metrics), ("custom_metadata", custom_metadata)):
            if given is not None:
                raise InvalidRequestError(f"{name}= has no counterpart in ckptd: save it in the tree")
        step = check_step(step)
        tree = items if args is None else tree_of(args)
        if self.options.read_only or not (force or overwrite or self.should_save(step)):
            self._tell_if_behind(step)
            return False
        began = time.monotonic()
        self.check_for_errors()
        latest = self._known_latest()
        if not overwrite and latest is not None and step <= latest and step in self.all_steps():
            raise ConflictError(f"step {step} is saved already; overwrite=True replaces it")
        self._pin_kept()
        is_held = self._copies_in_background
        arrays = held_arrays(tree) if is_held else to_arrays(tree)
        pending = self.checkpointer.save(step, arrays, overwrite=overwrite, immutable=is_held)
        pending.add_done_callback(_log_end)
        _LOG.info("step %d: training stood still for %.1f ms", step, (time.monotonic() - began) * 1e3)
        self._latest = step if latest is None else max(step, latest)
        self._under_way = [one for one in self._under_way if not one.done()] + [pending]
        if self.options.keeps(step) and self.checkpointer.rank == 0:
            self._to_pin.append(pending)
        if not self.options.enable_async_checkpointing:
            pending.result()
        return True

    @as_orbaxs
    def restore(
        self,
        step: int | None = None,
        items: Any = None,
        *,
        target: Any = None,
        args: Any = None,
        partial: bool = False,
    ) -> Any:
        """Read a checkpoint, the latest if `step` is None, as plain containers or as a target says; see `load`.

        Args:
            step: which one.
            items: the target.
            target: the same, by the name that says what it is.
            args: the same in Orbax's words; with a mapping of names to such, a mapping of that kind is returned.
            partial: the checkpoint may hold more than the target.

        Raises:
            InvalidRequestError: the target does not fit, with every path and both shapes.
            NotFoundError: no such checkpoint.
            CorruptionError: the bytes are wrong.
        """
        if items is not None and target is not None:
            raise InvalidRequestError("`items` and `target` are two names for one thing")
        wanted = target if items is None else items
        reader = self._reader(step)
        if args is None:
            found = load(reader, wanted, partial=partial)
            return as_composite(found) if wanted is None and self._has_items else found
        if wanted is not None:
            raise InvalidRequestError("a target is given once, as such or in `args`")
        return load_args(reader, args, partial=partial)

    @as_orbaxs
    def item_metadata(self, step: int | None = None) -> Any:
        """Return the pytree of a checkpoint, with `jax.ShapeDtypeStruct`s for its arrays: a target; see `describe`."""
        found = describe(self._reader(step))
        return as_composite(found) if self._has_items else found

    @as_orbaxs
    def prepare(self, items: Any) -> None:
        """Make the first save as fast as the next ones; `items` is what will be saved. May be left out."""
        self.checkpointer.prepare(to_arrays(items))

    @as_orbaxs
    def should_save(self, step: int) -> bool:
        """Say whether this step's turn has come: the first one, those that the interval divides, and on preemption."""
        step = check_step(step)
        latest = self._known_latest()
        if self.options.wants(step, latest):
            return True
        is_newer = latest is None or step > latest
        return is_newer and not self.options.read_only and self.reached_preemption(step)

    def reached_preemption(self, step: int) -> bool:
        """Say whether the platform has announced that it will stop this job, and all its processes are at this step."""
        try:
            return bool(multihost_utils.reached_preemption_sync_point(step))
        except RuntimeError:  # JAX watches for it only in a distributed job
            return False

    @as_orbaxs
    def latest_step(self) -> int | None:
        """Return the newest step, None if there is none; waits for the saves under way."""
        self.checkpointer.settle()
        checkpoint = self.checkpointer.latest()
        return None if checkpoint is None else checkpoint.step

    def best_step(self) -> int | None:
        """Return the latest step, which is the best one where nothing says what is better, as with Orbax."""
        return self.latest_step()

    @as_orbaxs
    def all_steps(self, read: bool = False) -> list[int]:
        """Return the steps that are there, in ascending order; waits for the saves under way, and for retention.

        Args:
            read: call `reload` besides. The steps themselves are always looked up.
        """
        if read:
            self.reload()
        self.checkpointer.settle()
        return sorted(one.step for one in self.checkpointer.checkpoints() if one.step is not None)

    def reload(self) -> None:
        """Forget what is known of the directory, in case that somebody else changed it."""
        self._has_looked = False

    def is_saving_in_progress(self) -> bool:
        """Say whether a save is under way."""
        return any(not pending.done() for pending in self._under_way)

    @as_orbaxs
    def wait_until_finished(self) -> None:
        """Wait until everything is durable; raise what ended a save that nobody has asked for."""
        has_saved = bool(self._under_way)
        for one in self._under_way:
            one.wait()
        self._pin_kept()
        self.check_for_errors()
        if has_saved:
            self.checkpointer.settle()  # and retention

    @as_orbaxs
    def check_for_errors(self) -> None:
        """Raise what ended a save, if nobody has asked."""
        ended = [pending for pending in self._under_way if pending.done()]
        self._under_way = [pending for pending in self._under_way if pending not in ended]
        for one in ended:
            if (error := one.take_unseen_error()) is not None:
                raise error

    @as_orbaxs
    def delete(self, step: int) -> None:
        """Delete a checkpoint; durable on return of rank 0's call, the others do nothing.

        Raises:
            ConflictError: it is the latest, or pinned by somebody else.
        """
        if self.options.read_only:
            raise InvalidRequestError("this manager is read only")
        step = check_step(step)
        if self.checkpointer.rank == 0:
            self._to_pin = [pending for pending in self._to_pin if pending.step != step]
            if self.options.keeps(step):
                self.checkpointer.unpin(step)
            self.checkpointer.delete(step)
        self.reload()

    @as_orbaxs
    def roll_back(self, step: int) -> list[int]:
        """Delete every step that is newer than this one, after a job has gone back to it; return them.

        Until then `save` passes over the steps up to the newest that is there, as Orbax does. Every process calls it:
        rank 0 deletes, durably, and the others wait until that is done, so that all of them save the next step.

        Raises:
            NotFoundError: the step is not there, and nothing is deleted.
            InvalidRequestError: the manager is read only.
            UnavailableError: rank 0 has not deleted them within `timeout_s`.
        """
        if self.options.read_only:
            raise InvalidRequestError("this manager is read only")
        step = check_step(step)
        self._known_latest()  # pins what a killed process left to pin
        steps = self.all_steps()
        if step not in steps:
            raise NotFoundError(f"step {step} is not there to roll back to", actual=steps[-5:])
        abandoned = [one for one in steps if one > step]
        if self.checkpointer.rank == 0:
            self._to_pin = [pending for pending in self._to_pin if pending.step not in abandoned]
            for one in reversed(abandoned):
                if self.options.keeps(one):
                    self.checkpointer.unpin(one)
                self.checkpointer.delete(one, even_latest=True)
        else:
            self._await_deleted(set(abandoned))
        self._latest, self._has_looked = step, True  # the same on every process, whatever it saw of the deletion
        return abandoned

    def _await_deleted(self, steps: set[int]) -> None:
        """Wait until another process has deleted these steps."""
        ends = time.monotonic() + self.checkpointer.timeout_s
        while left := steps.intersection(self.all_steps()):
            if time.monotonic() > ends:
                raise UnavailableError(
                    "rank 0 has not deleted the abandoned steps: does it call roll_back too?", actual=left
                )
            time.sleep(_LOOK_S)

    @as_orbaxs
    def close(self) -> None:
        """Wait for the saves under way and free everything. May be repeated."""
        try:
            self.wait_until_finished()
        finally:
            self._under_way, self._to_pin = [], []
            self.checkpointer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        for one in self._under_way:
            one.wait()
        with contextlib.suppress(CkptdError):  # the error that ends the block says more
            self._pin_kept()
        self._under_way, self._to_pin = [], []
        self.checkpointer.__exit__(kind, error, trace)

    def __getattr__(self, name: str) -> NoReturn:
        way = _ABSENT.get(name)
        text = f"{type(self).__name__!r} object has no attribute {name!r}"
        raise AttributeError(text if way is None else f"{text}: {way}", name=name, obj=self)

    def _reader(self, step: int | None) -> CheckpointReader:
        return self.checkpointer.reader(None if step is None else check_step(step))

    def _tell_if_behind(self, step: int) -> None:
        """Say, once for each newest step, that a step is passed over because newer ones are there."""
        latest = self._known_latest()
        if latest is None or step >= latest or latest == self._told_of or self.options.read_only:
            return
        # A function that decides has been called with the newest step; with an invented one it is not.
        if self.options.should_save_fn is not None or self.options.wants(step, step - 1):
            self._told_of = latest
            _LOG.warning(
                "step %d is not saved, nor are others up to %d, as newer ones are there: after a rollback call "
                "roll_back(step) with the step that the job went back to, or save(…, overwrite=True)",
                step,
                latest,
            )

    def _known_latest(self) -> int | None:
        """Return the newest step there is or was begun, asking for it once."""
        if not self._has_looked:
            self._latest = self.latest_step()
            self._has_looked = True
            if self.options.keep_period is not None and self.checkpointer.rank == 0 and not self.options.read_only:
                self._pin_left_over()
        return self._latest

    def _pin_left_over(self) -> None:
        """Pin what a process before this one saved and had no more time to pin."""
        for one in self.checkpointer.checkpoints():
            if one.step is not None and not one.pinned and self.options.keeps(one.step):
                self.checkpointer.pin(one.step)

    def _pin_kept(self) -> None:
        """Pin what stays for good as soon as it is durable, before so many newer ones are that it would be deleted."""
        is_urgent = self.options.max_to_keep is not None and self.options.max_to_keep <= _MAX_UNDER_WAY
        waiting, self._to_pin = self._to_pin, []
        for pending in waiting:
            if not pending.done() and not is_urgent:
                self._to_pin.append(pending)
                continue
            pending.wait()
            if pending.checkpoint is not None and pending.checkpoint.step is not None:
                self.checkpointer.pin(pending.checkpoint.step)


def _log_end(pending: PendingSave) -> None:
    done = pending.checkpoint
    if done is not None:
        _LOG.info(
            "step %s: %d bytes are durable in %s after %.2f s", done.step, done.size_bytes, done.prefix, done.duration_s
        )
