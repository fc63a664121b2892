"""Lightning's checkpoints through ckptd: ``Trainer(plugins=[CkptdCheckpointIO()])``.

Each path that Lightning names becomes a run with one checkpoint: without a daemon, the directory of that path. Another
save to the path replaces the checkpoint. A removal takes effect once all earlier saves are durable: `ModelCheckpoint`
removes the old checkpoint right after it has begun the new one, which is not durable yet.
"""

from __future__ import annotations

import importlib
import inspect
import io
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ckptd.client.capture.buffers import RoomPool
from ckptd.client.checkpointer import Checkpointer
from ckptd.client.options import check_step
from ckptd.client.paths.environment import given_address
from ckptd.client.paths.latest import Path as AnyPath
from ckptd.client.paths.latest import as_text
from ckptd.client.saving.pending import PendingSave
from ckptd.engine.series import name_of
from ckptd.errors import CkptdError, ConflictError, InvalidRequestError, NotFoundError
from ckptd.format.names import ANY_NAME
from ckptd.torch import lightning_paths as paths
from ckptd.torch.lightning_callers import is_rhythm
from ckptd.torch.lightning_errors import MissingCheckpointError, StorageOptionsError, what_is_missing
from ckptd.torch.lightning_files import load_lightning_file
from ckptd.torch.lightning_runs import PathRuns
from ckptd.torch.lightning_values import plain, with_containers, without_note
from ckptd.torch.loading import load
from ckptd.torch.saving import save

_log = logging.getLogger("ckptd.torch")

try:
    _io: Any = importlib.import_module("lightning.fabric.plugins.io.checkpoint_io")
    _cloud_io: Any = importlib.import_module("lightning.fabric.utilities.cloud_io")
except ImportError:  # installed under its older name
    _io = importlib.import_module("lightning_fabric.plugins.io.checkpoint_io")
    _cloud_io = importlib.import_module("lightning_fabric.utilities.cloud_io")

_MOST_UNDER_WAY = 2  # each holds a copy of the state


@dataclass(eq=False)
class _Open:
    """A path with a recent save."""

    checkpointer: Checkpointer
    pending: PendingSave
    is_new: bool  # the path did not exist before


class CkptdCheckpointIO(_io.CheckpointIO):  # type: ignore[misc]  # Lightning's types are not checked
    """Saves and loads Lightning's checkpoints; training continues while a save of `ModelCheckpoint` is written.

    Every other call, such as ``trainer.save_checkpoint(path)``, returns when the checkpoint is durable. A save of
    `ModelCheckpoint` that failed raises at the next one, or at the end of ``fit``. Nothing is pickled: a value that
    needs pickle, such as an object among the hyperparameters, is refused by name.
    """

    def __init__(
        self, address: str | None = None, run: str = "lightning", *, classes: Iterable[type] = (), **options: Any
    ) -> None:
        """Say where checkpoints go.

        Args:
            address: a daemon's; None means ``CKPTD_ADDRESS``. Without one, they go to the paths that Lightning names.
            run: with a daemon, the directory below its root: the last part of a path is a run there, with ``@`` and a
                hash of the path if another path has that run. A small file at the path itself points to the run;
                Lightning lists, links and removes it.
            options: of each `ckptd.Checkpointer` that is created.
        """
        self._classes = list(classes)
        self._address = given_address(address)
        self._run = run
        self._options = {"max_to_keep": 1, **options, "rank": 0, "world_size": 1}  # Lightning calls one rank only
        self._begin()

    @property
    def address(self) -> str | None:
        """The daemon's; None where checkpoints go to the paths that Lightning names."""
        return self._address

    def _begin(self) -> None:
        self._rooms = RoomPool()
        self._open: dict[str, _Open] = {}
        self._removals: dict[str, list[PendingSave]] = {}
        self._runs = PathRuns(self._address, self._run, self._options)

    def __getstate__(self) -> dict[str, Any]:
        """Return where checkpoints go: a copy, such as in a spawned process, has no pending saves."""
        return {name: getattr(self, name) for name in ("_address", "_run", "_classes", "_options")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: AnyPath, storage_options: Any = None) -> None:
        """Begin to save; return once `checkpoint` may be changed, or, if no callback made the call, once it is durable.

        Raises:
            InvalidRequestError: naming a value that can't be stored without pickle.
            StorageOptionsError: for `storage_options`, which are not supported; also a TypeError.
            CkptdError: the error of this save, or of an earlier one.
        """
        if storage_options is not None:
            raise StorageOptionsError(
                "there are no storage options; `CkptdCheckpointIO` takes a Checkpointer's options"
            )
        where = paths.place_of(path)
        self._removals.pop(where, None)
        self._settle(but=where, may_be_under_way=_MOST_UNDER_WAY - 1)
        state = plain(checkpoint)
        known = self._open.pop(where, None)
        file_system = _cloud_io.get_filesystem(where)
        is_new = known.is_new and known.pending.checkpoint is None if known else not paths.is_there(where, file_system)
        run = self._runs.run_to_save(where) if self._address else None
        paths.occupy(where, run, file_system)
        place = (self._address, run) if run else self._runs.place(where)
        checkpointer = known.checkpointer if known else Checkpointer(*place, **self._options)
        if known is None:
            checkpointer.share_rooms(self._rooms)  # fresh memory for every path would be slow to fill
        try:
            pending = save(state, checkpointer, _step_of(checkpoint), overwrite=True)
        except BaseException:
            try:
                checkpointer.close()
            finally:
                if is_new:
                    paths.clear(where, file_system)
            raise
        self._open[where] = _Open(checkpointer, pending, is_new)
        if not is_rhythm():
            self._close(where)

    def load_checkpoint(
        self, path: AnyPath, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Return the checkpoint at a path; wait for a pending save to it.

        Args:
            path: of the checkpoint. A file that Lightning itself has written is read, too, if it holds only tensors and
                plain values.
            map_location: a device for the tensors; other kinds, such as functions, leave them in the host's memory.
            weights_only: ignored: a checkpoint holds only tensors and plain values.

        Raises:
            MissingCheckpointError: nothing was saved there.
            InvalidRequestError: a file of Lightning's own holds objects that need unpickling.
        """
        return without_note(self._load(path, map_location))

    def _load(self, path: AnyPath, map_location: Any) -> dict[str, Any]:
        where = paths.target_of(path)
        self._close(where)
        if paths.is_foreign_file(where):
            return load_lightning_file(where, map_location)
        device = map_location if isinstance(map_location, (str, torch.device)) else None
        try:
            return self._load_at(self._runs.place(where, is_bare="/" not in as_text(path)), device)
        except NotFoundError as error:
            if error.key is not None:  # about a part of an existing checkpoint
                raise
            is_last = paths.leads_to_the_newest(path)
            beside = self._newest_beside(where) if is_last else None
            if beside is None:
                missing = MissingCheckpointError(what_is_missing(as_text(path), where, error))
                self._tell_of_the_run(where, missing)
                of_last = paths.place_of(path)
                if is_last and paths.forget_begun(of_last, where):
                    missing.add_note(
                        f"no checkpoint in its directory ever became durable; the unfinished save is removed, so that "
                        f"the next start begins without {of_last}"
                    )
                raise missing from None
        _log.warning("%s: its save never became durable; %s is loaded, the newest that did", as_text(path), beside)
        return self._load_at(self._runs.place(beside), device)

    def _load_at(self, place: tuple[str, str], device: torch.device | str | None) -> dict[str, Any]:
        with Checkpointer(*place, **self._options) as checkpointer:
            state: dict[str, Any] = load(checkpointer, device=device, classes=self._classes)
        return state

    def _tell_of_the_run(self, where: str, missing: MissingCheckpointError) -> None:
        run = self._runs.run_of(where)
        if self._address and not paths.read_pointer(where) and self._runs.holds(run):
            missing.add_note(
                f"the daemon has a checkpoint in its run {run!r}, but no pointer at {where} says that it belongs to "
                f"this path: if it is this one, load it by its name alone, {where.rpartition('/')[2]!r}"
            )

    def _newest_beside(self, where: str) -> str | None:
        """Return the newest complete checkpoint in the directory of an unfinished one; None if there is none."""
        if not Path(where).exists():  # no save was begun here: the path is wrong
            return None
        steps = {}
        for one in paths.siblings_of(where):
            if (Path(one).is_dir() or paths.read_pointer(one)) and (step := self._step_at(one)) is not None:
                steps[one] = step, Path(one).stat().st_mtime
        return max(steps, key=steps.__getitem__, default=None)

    def _step_at(self, where: str) -> int | None:
        with Checkpointer(*self._runs.place(where), **self._options) as checkpointer:
            latest = checkpointer.latest()
        return None if latest is None else latest.step

    def load_from_checkpoint(
        self,
        module_class: Any,
        path: AnyPath,
        map_location: Any = None,
        hparams_file: AnyPath | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return a module or data module from a checkpoint, as ``module_class.load_from_checkpoint(path)`` does.

        Lightning's own method opens the path as a file, and does not call this plugin.

        Args:
            module_class: a `LightningModule` or `LightningDataModule`.
            path: as in `load_checkpoint`.
            map_location: as there.
            hparams_file: as in Lightning.
            strict: as in Lightning.
            kwargs: replace saved hyperparameters.

        Raises:
            MissingCheckpointError: nothing was saved there.
        """
        content = io.BytesIO()
        torch.save(with_containers(self._load(path, map_location)), content)
        content.seek(0)
        call = module_class.load_from_checkpoint
        if "weights_only" in inspect.signature(call).parameters:  # since Lightning 2.6
            kwargs["weights_only"] = False  # written a moment ago, by this method
        return call(content, map_location=map_location, hparams_file=hparams_file, strict=strict, **kwargs)

    def remove_checkpoint(self, path: AnyPath) -> None:
        """Remove the checkpoint at a path once all pending saves are durable. May be repeated.

        If the path is a link, only the link is removed.
        """
        where = paths.place_of(path)
        if paths.is_link(where):
            Path(where).unlink(missing_ok=True)
        else:
            # Also saves that have ended: if one failed, the older checkpoint stays.
            self._removals[where] = [one.pending for one in self._open.values()]
        self._settle()

    def teardown(self) -> None:
        """Wait for every save, and carry out every removal.

        Raises:
            CkptdError: the error of a save, if it was not raised yet.
        """
        try:
            self._settle(may_be_under_way=0)
        finally:
            self._rooms.clear()

    def _settle(self, but: str = "", may_be_under_way: int = _MOST_UNDER_WAY) -> None:
        """Wait while too many saves are pending, carry out removals, close finished runs; raise the error of a save."""
        others = [where for where in self._open if where != but]
        under_way = [where for where in others if not self._open[where].pending.done()]
        for where in under_way[: max(len(under_way) - may_be_under_way, 0)]:
            self._open[where].pending.wait(self._open[where].checkpointer.timeout_s)
        for where, before in list(self._removals.items()):
            if all(pending.done() for pending in before):
                del self._removals[where]
                if all(pending.checkpoint is not None for pending in before):
                    self._remove(where)
                else:
                    _log.warning("%s is kept, because a later save has failed", where)
        failure: CkptdError | None = None
        for where in others:
            if where in self._open and (not may_be_under_way or self._open[where].pending.done()):
                try:
                    self._close(where)
                except CkptdError as error:
                    failure = failure or error
        if failure is not None:
            raise failure

    def _close(self, where: str) -> None:
        known = self._open.pop(where, None)
        if known is None:
            return
        try:
            known.checkpointer.close()
        finally:
            if known.is_new and known.pending.done() and known.pending.checkpoint is None:
                paths.clear(where, _cloud_io.get_filesystem(where))

    def _remove(self, where: str) -> None:
        self._close(where)
        if paths.is_foreign_file(where):
            Path(where).unlink(missing_ok=True)
            return
        if self._address and paths.read_pointer(where) is None and where not in self._runs:
            _log.warning("%s: no pointer to a daemon's run is there, so nothing is removed", where)
            return  # the run of that name may be another path's
        with Checkpointer(*self._runs.place(where), **self._options) as checkpointer:
            for checkpoint in checkpointer.checkpoints(name=ANY_NAME):
                if checkpoint.step is not None:  # `save_checkpoint` always sets one
                    name = name_of(checkpoint)
                    try:
                        checkpointer.delete(checkpoint.step, for_good=True, even_latest=True, name=name)
                    except ConflictError as error:
                        _log.warning("%s is kept: %s", where, error)
                        return
        self._runs.forget(where)
        paths.clear(where, _cloud_io.get_filesystem(where))


def _step_of(checkpoint: dict[str, Any]) -> int:
    """Return the step in a checkpoint of a `Trainer`; a checkpoint of Fabric may have any content."""
    try:
        return check_step(checkpoint.get("global_step", 0))
    except InvalidRequestError:
        return 0
