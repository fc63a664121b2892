"""Lightning's checkpoints through ckptd: ``Trainer(plugins=[CkptdCheckpointIO()])``.

Each path that Lightning names becomes a run with one checkpoint: without a daemon the directory of that path. What is
saved again there replaces it, and what Lightning removes goes once everything that was saved before is durable:
`ModelCheckpoint` removes the old one right after it has asked for the new one, which is still under way then.
"""

from __future__ import annotations

import importlib
import logging
import shutil
from dataclasses import dataclass
from typing import Any

import torch

from ckptd.client.checkpointer import Checkpointer
from ckptd.client.environment import given_address
from ckptd.client.finding import Path, as_text
from ckptd.client.pending import PendingSave
from ckptd.client.rooms import RoomPool
from ckptd.engine.series import name_of
from ckptd.errors import CkptdError, ConflictError, InvalidRequestError
from ckptd.format.names import ANY_NAME
from ckptd.torch.loading import load
from ckptd.torch.places import address_and_run
from ckptd.torch.saving import save

_log = logging.getLogger("ckptd.torch")

try:
    _io: Any = importlib.import_module("lightning.fabric.plugins.io.checkpoint_io")
except ImportError:  # it is installed under its older name
    _io = importlib.import_module("lightning_fabric.plugins.io.checkpoint_io")

_MOST_UNDER_WAY = 2  # each holds a copy of the state


@dataclass(eq=False)
class _Open:
    """A path that was saved to lately."""

    checkpointer: Checkpointer
    pending: PendingSave


class CkptdCheckpointIO(_io.CheckpointIO):  # type: ignore[misc]  # Lightning's types are not looked at
    """Saves and loads what Lightning's trainer asks for; saving returns once training may go on.

    A save that failed raises at the next one, or at the end of ``fit``. Nothing is pickled: what has no other form,
    such as an object among the hyperparameters, is refused by its name.
    """

    def __init__(self, address: str | None = None, run: str = "lightning", **options: Any) -> None:
        """Say where checkpoints go.

        Args:
            address: a daemon's; None asks ``CKPTD_ADDRESS``. Without one, they go to the paths that Lightning names.
            run: with a daemon, the directory below its root: a path's last part is a run in there.
            options: of each `ckptd.Checkpointer` that is made.
        """
        self._address = given_address(address)
        self._run = run
        self._options = {"max_to_keep": 1, **options, "rank": 0, "world_size": 1}  # Lightning asks one rank only
        self._rooms = RoomPool()
        self._open: dict[str, _Open] = {}
        self._removals: dict[str, list[PendingSave]] = {}

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Path, storage_options: Any = None) -> None:
        """Begin to save; return once `checkpoint` may be changed.

        Raises:
            InvalidRequestError: naming what can't be stored without pickle; or for `storage_options`, of which there
                are none.
        """
        if storage_options is not None:
            raise InvalidRequestError("there are no storage options; `CkptdCheckpointIO` takes a Checkpointer's")
        where = as_text(path).rstrip("/")
        self._removals.pop(where, None)
        self._settle(but=where, may_be_under_way=_MOST_UNDER_WAY - 1)
        known = self._open.pop(where, None)
        address, run = self._place(where)
        checkpointer = known.checkpointer if known else Checkpointer(address, run, **self._options)
        if known is None:
            checkpointer.share_rooms(self._rooms)  # fresh memory for every path would be slow to fill
        try:
            pending = save(checkpoint, checkpointer, int(checkpoint.get("global_step", 0)), overwrite=True)
        except BaseException:
            checkpointer.close()
            raise
        self._open[where] = _Open(checkpointer, pending)

    def load_checkpoint(self, path: Path, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Return what was saved at a path; a save to it that is under way is waited for.

        Args:
            path: of the checkpoint.
            map_location: a device for the tensors; other kinds, such as functions, leave them in the host's memory.
            weights_only: means nothing: there is never anything but tensors and plain values.

        Raises:
            NotFoundError: nothing was saved there.
        """
        where = as_text(path).rstrip("/")
        self._close(where)
        device = map_location if isinstance(map_location, (str, torch.device)) else None
        address, run = self._place(where)
        with Checkpointer(address, run, **self._options) as checkpointer:
            state: dict[str, Any] = load(checkpointer, device=device)
        return state

    def remove_checkpoint(self, path: Path) -> None:
        """Remove what was saved at a path, once all saves that are under way now are durable. May be repeated."""
        # Also those that have ended: a save that failed makes room for nothing.
        self._removals[as_text(path).rstrip("/")] = [one.pending for one in self._open.values()]
        self._settle()

    def teardown(self) -> None:
        """Wait for every save, and remove what is to be removed.

        Raises:
            CkptdError: what ended a save, if nobody has asked.
        """
        try:
            self._settle(may_be_under_way=0)
        finally:
            self._rooms.clear()

    def _place(self, where: str) -> tuple[str, str]:
        if self._address:
            return self._address, f"{self._run}/{where.rpartition('/')[2]}"
        return address_and_run(where, "")

    def _settle(self, but: str = "", may_be_under_way: int = _MOST_UNDER_WAY) -> None:
        """Wait while more is under way, remove what may go, and leave what was saved; raise what ended a save."""
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
        if known is not None:
            known.checkpointer.close()

    def _remove(self, where: str) -> None:
        self._close(where)
        address, run = self._place(where)
        with Checkpointer(address, run, **self._options) as checkpointer:
            for checkpoint in checkpointer.checkpoints(name=ANY_NAME):
                if checkpoint.step is not None:  # as `save_checkpoint` gives one to each
                    name = name_of(checkpoint)
                    try:
                        checkpointer.delete(checkpoint.step, for_good=True, even_latest=True, name=name)
                    except ConflictError as error:
                        _log.warning("%s is kept: %s", where, error)
                        return
        if not self._address and "://" not in where:
            # The marks of a run that has nothing any more; Lightning takes a directory for a checkpoint.
            shutil.rmtree(where, ignore_errors=True)
