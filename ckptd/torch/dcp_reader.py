"""`CkptdStorageReader`: what `torch.distributed.checkpoint` loads from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.storage import StorageReader
from torch.futures import Future

from ckptd.client.capture.arrays import Array
from ckptd.client.checkpointer import Checkpointer
from ckptd.client.restoring.reader import CheckpointReader, load_checkpoint
from ckptd.errors import ConflictError, InvalidRequestError
from ckptd.format.names import ANY_NAME
from ckptd.torch.arrays import tensor_of
from ckptd.torch.dcp_opened import Choice, Opened, destination, open_reader, read_values
from ckptd.torch.dcp_place import DcpPath, Id, as_text, is_id, is_step, origin


class CkptdStorageReader(StorageReader):
    """Loads a checkpoint into what `dcp.load` is given, however many ranks saved it and however it was sharded.

    Every rank reads the boxes that it needs, directly into its tensors if they are in the host's memory. It reads every
    checkpoint of TensorFlow's format, not only those that `CkptdStorageWriter` wrote, and unpickles nothing.
    """

    def __init__(
        self,
        address_or_path: str | os.PathLike[str] | None = None,
        *,
        run: str | None = None,
        step: int | None = None,
        name: str = "model.ckpt",
        timeout_s: float = 600.0,
        token: str | None = None,
        ca: str | bytes | None = None,
        cert: str | bytes | None = None,
        key: str | bytes | None = None,
    ) -> None:
        """Say where to read; nothing is opened yet.

        Args:
            address_or_path: a daemon's address; with `run`, a store's path or URL; else the prefix of a checkpoint, or
                a directory, of which the latest is read. None is the environment's CKPTD_ADDRESS, if there is one.
            run: the run's directory below the root of the daemon or the store.
            step: of the checkpoint; None for the latest of the run, or if `dcp.load` gets a ``checkpoint_id``.
            name: base name of checkpoints whose ``checkpoint_id`` is only a step.
            timeout_s: the bound of every wait.
            token: shown to the daemon; default: the environment's CKPTD_TOKEN.
            ca: the authority that signed the daemon's certificate: PEM, or the path of a file with it; default: the
                environment's CKPTD_CA.
            cert: the client's own certificate, for a daemon with ``--client-ca``: PEM, or the path of a file
                with it; default: the environment's CKPTD_CERT.
            key: the private key of `cert`, likewise; default: the environment's CKPTD_KEY.

        Raises:
            InvalidRequestError: for an invalid argument.
        """
        super().__init__()
        self._id: Id | None
        self._origin, self._id = origin(address_or_path, run, step, name)
        self._options: Mapping[str, Any] = {"timeout_s": timeout_s, "token": token, "ca": ca, "cert": cert, "key": key}
        self._opened: Opened | None = None
        self._checkpointer: tuple[tuple[str, str], Checkpointer] | None = None

    @property
    def checkpoint_id(self) -> str | None:
        """Which checkpoint is read; None for the latest, until its name is known."""
        if self._opened is not None:
            return self._opened.reader.prefix
        return None if self._id is None else str(self._id)

    # DCP calls these methods, in this order.

    def reset(self, checkpoint_id: Id | None = None) -> None:
        """Begin another load, of `checkpoint_id` if that is given; see `dcp_place` for its forms."""
        self._opened = None
        if checkpoint_id is not None:
            self._id = checkpoint_id

    def read_metadata(self) -> Metadata:
        """Describe the content of the checkpoint. Every tensor is one chunk, however it was sharded.

        Raises:
            NotFoundError: there is no such checkpoint.
            CorruptionError: its index, or DCP's note, is damaged.
        """
        self._opened = open_reader(self._find())
        return self._opened.metadata

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Open the checkpoint, if `read_metadata` has not."""
        if self._opened is None:
            self._opened = open_reader(self._find())

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Note which checkpoint this rank has opened: other ranks may have found a newer one."""
        return replace(plan, storage_data=self._known().choice)

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Make all ranks read the checkpoint that the coordinator has opened."""
        return [replace(plan, storage_data=self._known().choice) for plan in plans]

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Read every item of the plan into the planner's tensors; a stored piece that is read whole is verified.

        Raises:
            ConflictError: the checkpoint was replaced while the ranks opened it.
            InvalidRequestError, NotFoundError: the checkpoint does not fit the plan.
            CorruptionError: the bytes are wrong.
        """
        opened = self._agree(plan.storage_data)
        wanted: list[tuple[str, tuple[int, ...], Array]] = []
        copies: list[tuple[torch.Tensor, Array]] = []
        filled: list[tuple[ReadItem, torch.Tensor]] = []
        read_values(opened, [item for item in plan.items if item.type == LoadItemType.BYTE_IO], planner)
        for item in plan.items:
            if item.type == LoadItemType.BYTE_IO:
                continue
            target = planner.resolve_tensor(item).detach()
            name, start, array, is_own = destination(opened, item, target)
            wanted.append((name, start, array))
            filled.append((item, target))
            if not is_own:
                copies.append((target, array))
        opened.reader.fill(wanted)
        for target, array in copies:
            target.copy_(tensor_of(array))
        for item, target in filled:
            planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Id) -> bool:
        """Return whether a checkpoint can be named so."""
        return is_id(checkpoint_id)

    def close(self) -> None:
        """Close the connections. May be repeated; the next read opens them again."""
        known, self._checkpointer = self._checkpointer, None
        self._opened = None
        if known is not None:
            known[1].close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None, "_checkpointer": None}

    def _known(self) -> Opened:
        if self._opened is None:
            raise InvalidRequestError("no checkpoint is open: call read_metadata first")
        return self._opened

    def _find(self, base: str | None = None) -> CheckpointReader:
        """Open the checkpoint of this load; with `base`, the one of this base name in the same run or directory."""
        address, run = self._origin.address, self._origin.run
        if self._id is None:
            if address is None or run is None:
                raise InvalidRequestError(
                    "no checkpoint is given: pass checkpoint_id=, or run= or a path to the reader"
                )
            return self._at(address, run).reader(base, name=ANY_NAME)  # the newest, whatever its id
        place = self._place()
        if place is not None and place.is_at_daemon:
            reading = self._at(place.address, place.run)
            which = base or (place.step if is_step(self._id) else place.base)
            if any(one.step == which for one in reading.checkpoints(name=place.name)):
                return reading.reader(which, name=place.name)
            return reading.reader(which, name=ANY_NAME)  # DCP's users name each checkpoint as they like
        path = as_text(self._id) if place is None else place.prefix
        if base is not None and self._opened is not None:
            path = f"{self._opened.reader.prefix.rpartition('/')[0]}/{base}"
        return load_checkpoint(path)

    def _place(self) -> DcpPath | None:
        """Return where the id points; None for a path that is used unchanged, such as a directory."""
        assert self._id is not None
        try:
            return self._origin.find(self._id)
        except InvalidRequestError:
            if self._origin.address is None and not isinstance(self._id, int):
                return None
            raise

    def _at(self, address: str, run: str) -> Checkpointer:
        if self._checkpointer is None or self._checkpointer[0] != (address, run):
            self.close()
            reading = Checkpointer(address, run, rank=0, world_size=1, **self._options)
            self._checkpointer = (address, run), reading
        return self._checkpointer[1]

    def _agree(self, choice: Any) -> Opened:
        """Return what all ranks read: what this one has opened, or what the coordinator has."""
        mine = self._known()
        if not isinstance(choice, Choice) or choice == mine.choice:
            return mine
        opened = open_reader(self._find(choice.base))
        if opened.choice != choice or opened.metadata.state_dict_metadata != mine.metadata.state_dict_metadata:
            raise ConflictError(
                "the checkpoint was replaced while the ranks opened it: load again",
                expected=choice.base,
                actual=mine.choice.base,
            )
        self._opened = opened
        return opened
