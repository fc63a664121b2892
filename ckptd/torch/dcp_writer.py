"""`CkptdStorageWriter`: saves for `torch.distributed.checkpoint`."""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch.distributed as dist
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future

from ckptd.client.parts import NamedParts
from ckptd.engine.checkpoint import Checkpoint
from ckptd.errors import InvalidRequestError
from ckptd.torch import dcp_session, dcp_stager
from ckptd.torch.dcp_items import Collected, collect
from ckptd.torch.dcp_place import DcpPath, Id, is_id, origin
from ckptd.torch.dcp_remarks import remarks_of_plan
from ckptd.torch.dcp_values import DcpNote, encode_values, names_of_own

_LOG = logging.getLogger("ckptd.torch")


@dataclass(frozen=True)
class _Ranks:
    """What the coordinator sends to every rank of the save: the number of ranks."""

    world_size: int


class CkptdStorageWriter(StorageWriter):
    """Saves the state of `dcp.save` and `dcp.async_save` through ckptd, completely or not at all.

    Tensors are stored under their fully qualified names, and shards as slices of them, so that every reader of
    TensorFlow's checkpoints can read them: numpy, JAX, TensorFlow, and `CkptdStorageReader`. Other values are stored
    without pickle, or refused. A save is durable when `dcp.save` returns, or when the future of `dcp.async_save` is
    done.

    It is also the stager of `dcp.async_save`: the state is copied once, to the memory that it is written from. One
    object may be used for any number of saves, one after the other.
    """

    def __init__(
        self,
        address_or_path: str | os.PathLike[str] | None = None,
        *,
        run: str | None = None,
        step: int | None = None,
        name: str = "model.ckpt",
        overwrite: bool = True,
        max_to_keep: int | None = None,
        keep_checkpoint_every_n_hours: float | None = 10000.0,
        replicas: str = "warn",
        timeout_s: float = 600.0,
        token: str | None = None,
        ca: str | bytes | None = None,
        cert: str | bytes | None = None,
        key: str | bytes | None = None,
    ) -> None:
        """Say where to save; nothing is connected yet.

        Args:
            address_or_path: a daemon's address; with `run`, a store's path or URL; else the prefix of a checkpoint,
                ``DIRECTORY/NAME-STEP``, for one process. None is the environment's CKPTD_ADDRESS, if there is one.
            run: the run's directory below the root of the daemon or the store.
            step: of the checkpoint; None if `dcp.save` gets a ``checkpoint_id``.
            name: base name of checkpoints whose ``checkpoint_id`` is only a step.
            overwrite: replace an existing checkpoint, as DCP's own writer does; False refuses that.
            max_to_keep: how many of the newest are kept; None keeps all, as DCP does.
            keep_checkpoint_every_n_hours: with `max_to_keep`, one checkpoint per this many hours is kept for good; None
                keeps none.
            replicas: what to do if ranks have different values under one name, as for `ckptd.Checkpointer`.
            timeout_s: the bound of every wait, and of a whole save.
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
        self._origin, first = origin(address_or_path, run, step, name)
        self._place: DcpPath | None = None if first is None else self._origin.find(first)
        self._overwrite = overwrite
        self._options: Mapping[str, Any] = {
            "max_to_keep": max_to_keep,
            "keep_checkpoint_every_n_hours": keep_checkpoint_every_n_hours,
            "replicas": replicas,
            "timeout_s": timeout_s,
            "token": token,
            "ca": ca,
            "cert": cert,
            "key": key,
        }
        self._rank: int | None = None
        self._is_coordinator = True
        self._use_collectives = True
        self._world_size: int | None = None
        self._save_id = self._last_save_id = ""
        self._planner_data: Any = None
        self._brought = SavePlan([])
        self._joined: set[tuple[str, str]] = set()
        self._saves_elsewhere = False
        self._staged_s: float | None = None
        self._checkpoint: Checkpoint | None = None

    @property
    def checkpoint_id(self) -> str | None:
        """Where the checkpoint of this save is; None before it is known."""
        return None if self._place is None else self._place.prefix

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The last checkpoint that this object has saved."""
        return self._checkpoint

    # DCP calls these methods, in this order.

    def reset(self, checkpoint_id: Id | None = None) -> None:
        """Begin another save, at `checkpoint_id` if that is given; see `dcp_place` for its forms."""
        if checkpoint_id is not None:
            self._place = self._origin.find(checkpoint_id)

    def storage_meta(self) -> StorageMeta | None:
        """Describe the save, for the planner."""
        if self._save_id == self._last_save_id:
            self._save_id = uuid.uuid4().hex
        return StorageMeta(checkpoint_id=self.checkpoint_id, save_id=self._save_id)

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Set this process's part in the save."""
        self._is_coordinator = is_coordinator
        self._rank = kwargs.get("rank")
        self._use_collectives = kwargs.get("use_collectives", True)
        self._planner_data, self._brought = None, SavePlan([])
        self._find_place()

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Return the plan unchanged: ckptd plans the layout for all ranks."""
        if self._use_collectives:
            self._brought = plan  # the planner may assign some of it to another rank
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Send every rank the number of ranks. On the coordinator only, or on each rank without collectives."""
        mappings = [plan.planner_data for plan in plans if isinstance(plan.planner_data, dict)]
        self._planner_data = {key: path for mapping in reversed(mappings) for key, path in mapping.items()}
        world_size = len(plans) if self._use_collectives else _world_size()
        return [replace(plan, storage_data=_Ranks(world_size)) for plan in plans]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Save this rank's part, and wait until the checkpoint of all ranks is durable.

        Raises:
            InvalidRequestError: naming a value that can't be stored.
            CkptdError: what ended the save.
        """
        place = self._find_place()
        self._last_save_id = self._save_id
        began_at = time.monotonic()
        world_size = plan.storage_data.world_size if isinstance(plan.storage_data, _Ranks) else _world_size()
        session = dcp_session.session_for(self._membership(place.address, place.run, world_size))
        results: list[WriteResult] = []

        def parts() -> NamedParts:
            collected = self._collect(plan, planner)
            brought, self._brought = self._brought, SavePlan([])
            results.extend(collected.results)
            return NamedParts(collected.arrays, lambda: remarks_of_plan(brought, planner), collected.own)

        pending = session.save(place, parts, self._overwrite)
        self._checkpoint = saved = pending.result()
        took_s = time.monotonic() - began_at
        stalled_s = took_s if self._staged_s is None else self._staged_s
        self._staged_s = None
        size_mib = saved.size_bytes / (1 << 20)
        _LOG.info(
            "saved %s: %.1f MiB in %.2f s, training stood still for %.3f s", saved.prefix, size_mib, took_s, stalled_s
        )
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Complete the metadata that `dcp.save` returns. The checkpoint is durable already."""
        metadata.storage_data = {one.index: one.storage_data for ranks in results for one in ranks}
        metadata.storage_meta = StorageMeta(checkpoint_id=self.checkpoint_id, save_id=self._save_id)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Id) -> bool:
        """Return whether a checkpoint can have this id."""
        return is_id(checkpoint_id)

    # `dcp.async_save` calls these methods: `AsyncStager`'s protocol.

    _synchronize_after_execute = False

    @property
    def should_synchronize_after_execute(self) -> bool:
        """Whether `synchronize_staging` must be called after `stage`: no."""
        return self._synchronize_after_execute

    def stage(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Copy the state to the memory that it is saved from; on return, training may continue.

        The memory is private to this process while the run is not known yet, and if another process saves.
        """
        began_at = time.monotonic()
        staged = dcp_stager.stage(state_dict, self._session())
        self._staged_s = time.monotonic() - began_at
        return staged

    def prepare(self, state_dict: dict[str, Any]) -> None:
        """Make the first save stall as little as the next ones: join the run and allocate memory in the background.

        Only the sizes of `state_dict` matter. Returns soon. Optional; every rank calls it.
        """
        session = self._session()
        if session is not None:
            dcp_stager.prepare(state_dict, session)

    def synchronize_staging(self) -> None:
        """Do nothing: `stage` has waited."""

    def close(self) -> None:
        """Leave the run. Without this call the process stays in the run until it ends, ready for the next save."""
        for address, run in self._joined:
            dcp_session.close_session(address, run)
        self._joined = set()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the writer for another process, as `dcp.async_save` with a process does; leave the run here.

        One process is a rank of a run at a time.
        """
        self.close()
        self._saves_elsewhere = True
        return {**self.__dict__, "_saves_elsewhere": False}

    def _find_place(self) -> DcpPath:
        if self._place is None:
            raise InvalidRequestError("no checkpoint is given: pass checkpoint_id=, or a step= or a path to the writer")
        return self._place

    def _session(self) -> dcp_session.DcpSession | None:
        """Return the session that probably makes the next save; None if that is unknown or in another process."""
        where = self._origin if self._place is None else self._place
        if self._saves_elsewhere or where.address is None or where.run is None:
            return None
        return dcp_session.session_for(self._membership(where.address, where.run, self._world_size or _world_size()))

    def _membership(self, address: str, run: str, world_size: int) -> dcp_session.CheckpointerKey:
        self._world_size = world_size
        self._joined.add((address, run))
        rank = _rank() if self._rank is None else self._rank  # PyTorch before 2.8 does not pass it
        return dcp_session.CheckpointerKey(address, run, rank if world_size > 1 else 0, world_size, self._options)

    def _collect(self, plan: SavePlan, planner: SavePlanner) -> Collected:
        """Return the arrays of this rank's plan, and its note if there is anything to note."""
        collected = collect(plan, planner)
        keeps_note = self._is_coordinator or not self._use_collectives
        if keeps_note or collected.values or collected.opaque:
            metadata = getattr(planner, "metadata", None)
            planner_data = metadata.planner_data if isinstance(metadata, Metadata) else self._planner_data
            note = DcpNote(self._save_id, planner_data) if keeps_note else DcpNote()
            rank = _rank() if self._rank is None else self._rank
            keep_own = not self._use_collectives  # without collectives no planner has chosen one rank's values
            beside = encode_values(rank, collected.values, collected.opaque, note, keep_own=keep_own)
            collected.add(beside)
            collected.own = names_of_own(beside, collected.values) if keep_own else frozenset()
        return collected


def _rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
