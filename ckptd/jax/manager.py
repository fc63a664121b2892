"""`CheckpointManager`: Orbax's way of saving, over a `Checkpointer`."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Collection, Iterable
from types import TracebackType
from typing import Any, NoReturn

from ckptd.client.checkpointer import Checkpointer
from ckptd.client.options import check_step
from ckptd.client.restoring.reader import CheckpointReader
from ckptd.errors import CkptdError, ConflictError, InvalidRequestError, NotFoundError
from ckptd.events.delivery import Receiver
from ckptd.jax import places
from ckptd.jax.deciding import Decider, reached_preemption
from ckptd.jax.items import as_composite, load_args, tree_of
from ckptd.jax.keeping import Preserver
from ckptd.jax.loading import describe, load
from ckptd.jax.options import CheckpointManagerOptions, refuse_arguments
from ckptd.jax.reading import read_step
from ckptd.jax.refusals import as_orbaxs
from ckptd.jax.saving import held_arrays, to_arrays
from ckptd.jax.under_way import SavesUnderWay

if sys.version_info >= (3, 11):
    from typing import Self
else:
    from typing_extensions import Self

_LOG = logging.getLogger(__name__.rpartition(".")[0])  # ckptd.jax

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
        checkpointer: does the work; use it for what Orbax has no name for: `pin`, `watch`, `undelete`.
        options: when it saves, what it keeps.
    """

    @as_orbaxs
    def __init__(
        self,
        directory: str | os.PathLike[str],
        checkpointers: Any = None,
        options: Any = None,
        metadata: Any = None,
        item_names: Any = None,
        *,
        run: str | None = None,
        address: str | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        name: str = "model.ckpt",
        replicas: str = "warn",
        timeout_s: float | None = None,
        token: str | None = None,
        ca: str | bytes | None = None,
        cert: str | bytes | None = None,
        key: str | bytes | None = None,
        on_event: Receiver | Iterable[Receiver] | None = None,
        progress: bool = False,
        copy_in_background: bool = True,
        **changes: Any,
    ) -> None:
        """Describe the job; nothing is connected yet.

        Args:
            directory: where the checkpoints are, a path or a store's URL; or the address of a daemon.
            checkpointers: refused, as what is saved needs none.
            options: `CheckpointManagerOptions`, ours or Orbax's.
            metadata: refused: it belongs in the tree.
            item_names: with these, `restore` without a target and `item_metadata` return Orbax's ``Composite``, as
                Orbax does; the names themselves come with what is saved.
            run: below the daemon's root, or below the directory; default: the directory's path.
            address: of a daemon; default: the environment's CKPTD_ADDRESS, else direct mode in the directory.
            rank: of this process; default: that of `jax.distributed` if it is initialised, else as for `Checkpointer`.
            world_size: likewise.
            name: base name of the checkpoints.
            replicas: what to do when processes have other values under one name, as for `Checkpointer`.
            timeout_s: the bound of every wait; default: that of ``async_options``, else 600.
            token: shown to the daemon; default: the environment's CKPTD_TOKEN.
            ca: the authority that signed the daemon's certificate; default: the environment's CKPTD_CA.
            cert: the client's own certificate, for a daemon with ``--client-ca``: PEM, or the path of a file
                with it; default: the environment's CKPTD_CERT.
            key: the private key of `cert`, likewise; default: the environment's CKPTD_KEY.
            on_event: called with each event of its saves and restores, as for `Checkpointer`.
            progress: draw a bar for each save that takes long, as for `Checkpointer`.
            copy_in_background: `save` returns before JAX's arrays are copied, and holds them until they are. Memory
                that is donated meanwhile is not used again, so for that long there is one more state. False: it
                returns when they are copied.
            changes: single options by their names, ``max_to_keep=3``.

        Raises:
            InvalidRequestError: for anything above that can't be right.
        """
        legacy = {"checkpointers": checkpointers, "metadata": metadata}
        given = {name: value for name, value in legacy.items() if value is not None}
        self.options = CheckpointManagerOptions.of(options, {**changes, **given})
        address, run = places.place(directory, address, run)
        rank, world_size = places.member(rank, world_size)
        self.checkpointer = Checkpointer(
            address,
            run,
            rank=rank,
            world_size=world_size,
            name=name,
            replicas=replicas,
            max_to_keep=self.options.max_to_keep,
            retention="manager",
            timeout_s=self.options.timeout_s if timeout_s is None else timeout_s,
            token=token,
            ca=ca,
            cert=cert,
            key=key,
            on_event=on_event,
            progress=progress,
        )
        self._has_items = bool(item_names)
        self._copies_in_background = copy_in_background
        callback = getattr(self.options.async_options, "post_finalization_callback", None)
        # Nothing below refers to the manager: no cycle keeps a dropped one in its run.
        self._under_way = SavesUnderWay(callback, self.checkpointer.timeout_s)
        self._keeper = Preserver(self.checkpointer, self.options)
        self._decider = Decider(self.checkpointer, self.options, self._keeper.take_up, self._under_way)

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
        may_differ: Collection[str] = (),
        **more: Any,
    ) -> bool:
        """Save a pytree, if this step is due; return once its arrays may be donated and others changed.

        Args:
            step: the training step.
            items: the pytree; see `to_arrays`.
            args: the same in Orbax's words: whatever has it as ``item``, or a mapping of names to such.
            force: save although `should_save` says no.
            overwrite: replace a checkpoint of this step.
            metrics: refused: they belong in the tree.
            custom_metadata: likewise.
            may_differ: names whose values need not be the same in all processes: any one of them will do.
            more: refused: other arguments of Orbax's method.

        Returns:
            Whether it is being saved.

        Raises:
            InvalidRequestError: naming the leaf that can't be saved.
            ConflictError: the step is there already.
            CkptdError: the error of an earlier save.
        """
        refuse_arguments(more)
        if items is not None and args is not None:
            raise InvalidRequestError("what is saved is given once, as such or in `args`")
        for name, given in (("metrics", metrics), ("custom_metadata", custom_metadata)):
            if given is not None:
                raise InvalidRequestError(f"{name}= has no counterpart in ckptd: save it in the tree")
        step = check_step(step)
        tree = items if args is None else tree_of(args)
        if self.options.read_only or not (force or overwrite or self.should_save(step)):
            self._decider.tell_if_behind(step)
            return False
        began = time.monotonic()
        self.check_for_errors()
        latest = self._decider.latest
        if not overwrite and latest is not None and step <= latest and step in self.all_steps():
            raise ConflictError(f"step {step} is saved already; overwrite=True replaces it")
        self._keeper.follow()
        is_held = self._copies_in_background
        arrays_of = held_arrays if is_held else to_arrays
        pending = self.checkpointer.save(
            step,
            lambda: arrays_of(tree),  # if it refuses something, this tells the other ranks
            overwrite=overwrite,
            immutable=is_held,
            may_differ=may_differ,
        )
        _LOG.info("step %d: training stood still for %.1f ms", step, (time.monotonic() - began) * 1e3)
        self._decider.begun(step)
        self._under_way.add(step, pending)
        self._keeper.add(pending)
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
        **more: Any,
    ) -> Any:
        """Read a checkpoint, the latest if `step` is None, as plain containers or as a target says; see `load`.

        Args:
            step: which one. If the latest turns out to be damaged, None goes back to the newest that verifies, and the
                log says so; in a job of several processes the error is raised, and the next start goes back.
            items: the target.
            target: the same, by the name that says what it is.
            args: the same in Orbax's words; with a mapping of names to such, a mapping of that kind is returned.
            partial: the checkpoint may hold more than the target.
            more: refused: other arguments of Orbax's method.

        Raises:
            InvalidRequestError: the target does not fit, with every path and both shapes.
            NotFoundError: no such checkpoint.
            CorruptionError: the bytes are wrong.
        """
        refuse_arguments(more)
        if items is not None and target is not None:
            raise InvalidRequestError("`items` and `target` are two names for one thing")
        wanted = target if items is None else items
        if args is not None and wanted is not None:
            raise InvalidRequestError("a target is given once, as such or in `args`")

        def read(reader: CheckpointReader) -> Any:
            if args is not None:
                return load_args(reader, args, partial=partial)
            found = load(reader, wanted, partial=partial)
            return as_composite(found) if wanted is None and self._has_items else found

        return read_step(self.checkpointer, self._decider, step, read)

    @as_orbaxs
    def item_metadata(self, step: int | None = None) -> Any:
        """Return the pytree of a checkpoint, with `jax.ShapeDtypeStruct`s for its arrays: a target; see `describe`."""
        found = read_step(self.checkpointer, self._decider, step, describe)
        return as_composite(found) if self._has_items else found

    @as_orbaxs
    def prepare(self, items: Any) -> None:
        """Make the first save as fast as the next ones; `items` is what will be saved. May be left out."""
        self.checkpointer.prepare(to_arrays(items))

    @as_orbaxs
    def should_save(self, step: int) -> bool:
        """Return whether to save this step: the first one, multiples of the interval, and on preemption."""
        return self._decider.should_save(check_step(step))

    def reached_preemption(self, step: int) -> bool:
        """Return whether the platform will stop this job, and all its processes have reached this step."""
        return reached_preemption(step)

    @as_orbaxs
    def latest_step(self) -> int | None:
        """Return the newest step, None if there is none; waits for the saves under way."""
        return self._decider.look()

    def best_step(self) -> int | None:
        """Return the latest step, which is the best one where nothing says what is better, as with Orbax."""
        return self.latest_step()

    @as_orbaxs
    def all_steps(self, read: bool = False) -> list[int]:
        """Return the existing steps, in ascending order; waits for the saves under way, and for retention.

        Args:
            read: call `reload` besides. The steps themselves are always looked up.
        """
        if read:
            self.reload()
        self.checkpointer.settle()
        self._keeper.follow()
        return sorted(one.step for one in self.checkpointer.checkpoints() if one.step is not None)

    def reload(self) -> None:
        """Forget what is known of the directory, in case another process changed it."""
        self._decider.forget()

    def is_saving_in_progress(self) -> bool:
        """Return whether a save is under way."""
        return self._under_way.is_any_in_progress()

    @as_orbaxs
    def wait_until_finished(self) -> None:
        """Wait until everything is durable; raise what ended a save, if that was not seen yet."""
        has_saved = bool(self._under_way)
        self._under_way.wait()
        self._keeper.follow()
        self.check_for_errors()
        if has_saved:
            self.checkpointer.settle()  # and retention

    @as_orbaxs
    def check_for_errors(self) -> None:
        """Raise what ended a save, if that was not seen yet."""
        self._under_way.raise_unseen()

    @as_orbaxs
    def delete(self, step: int) -> None:
        """Delete a checkpoint; durable on return of rank 0's call, the others do nothing.

        Raises:
            ConflictError: it is the latest, or pinned by another process.
        """
        if self.options.read_only:
            raise InvalidRequestError("this manager is read only")
        self._keeper.delete(check_step(step))
        self.reload()

    @as_orbaxs
    def roll_back(self, step: int) -> list[int]:
        """Delete every step that is newer than this one, after a job has gone back to it; return them.

        Until then `save` skips the steps up to the newest that exists, as Orbax does. Every process calls it:
        rank 0 deletes, durably, and the others wait until that is done, so that all of them save the next step.

        Raises:
            NotFoundError: the step is not there, and nothing is deleted.
            ConflictError: a newer step is pinned, and not by this manager's options; nothing is deleted.
            InvalidRequestError: the manager is read only.
            UnavailableError: rank 0 has not deleted them within `timeout_s`.
        """
        if self.options.read_only:
            raise InvalidRequestError("this manager is read only")
        step = check_step(step)
        _ = self._decider.latest  # sets the pins that a killed process had still to set
        steps = self.all_steps()
        if step not in steps:
            raise NotFoundError(f"step {step} is not there to roll back to", actual=steps[-5:])
        abandoned = [one for one in steps if one > step]
        self._keeper.delete_abandoned(abandoned)
        self._decider.went_back(step)
        return abandoned

    @as_orbaxs
    def close(self) -> None:
        """Wait for pending saves and free everything. May be repeated."""
        try:
            self.wait_until_finished()
        finally:
            self._under_way.forget()
            self._keeper.forget()
            self.checkpointer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        self._under_way.wait(for_callbacks=False)
        with contextlib.suppress(CkptdError):  # the error that ends the block says more
            self._keeper.follow()
        self._under_way.forget()
        self._keeper.forget()
        self.checkpointer.__exit__(kind, error, trace)

    def __getattr__(self, name: str) -> NoReturn:
        way = _ABSENT.get(name)
        text = f"{type(self).__name__!r} object has no attribute {name!r}"
        raise AttributeError(text if way is None else f"{text}: {way}", name=name, obj=self)
