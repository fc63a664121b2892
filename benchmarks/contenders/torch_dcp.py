"""PyTorch's Distributed Checkpoint: blocking, and asynchronous with staging memory that is kept."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import Any

import numpy as np

from contenders.base import Contender, Job, MissingError, Times, sync_below


class TorchDcp(Contender):
    """`dcp.save` of DTensors cut along axis 0, ranks joined by gloo. Each call is collective, and syncs its files."""

    name = "dcp"
    about = "torch.distributed.checkpoint.save of DTensors over gloo"

    @classmethod
    def check(cls) -> None:
        if importlib.util.find_spec("torch") is None:
            raise MissingError("torch is not installed")

    def __init__(self, job: Job, directory: Path) -> None:
        super().__init__(job, directory)
        import torch
        import torch.distributed as dist

        torch.set_num_threads(1)
        self._torch, self._dist = torch, dist
        meeting = f"file://{directory.parent / 'gloo'}"
        dist.init_process_group("gloo", init_method=meeting, rank=job.rank, world_size=job.processes)
        self._mesh = None if job.small else dist.init_device_mesh("cpu", (job.processes,))
        self._state = self._tensors(self.arrays)

    def _tensors(self, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        local = {name: self._torch.from_numpy(array) for name, array in arrays.items()}
        if self._mesh is None:
            return local
        from torch.distributed.tensor import DTensor, Shard

        return {
            name: DTensor.from_local(tensor, self._mesh, [Shard(0)], run_check=False) for name, tensor in local.items()
        }

    def _checkpoint(self, step: int) -> str:
        return str(self.directory / f"step-{step}")

    def save(self, step: int) -> Times:
        import torch.distributed.checkpoint as dcp

        began = time.monotonic()
        dcp.save(self._state, checkpoint_id=self._checkpoint(step))
        ended = time.monotonic()
        return Times(began, ended, ended)

    def complete(self, step: int) -> None:
        sync_below(self.directory)

    def restore(self, step: int, into: bool) -> dict[str, np.ndarray]:
        import torch.distributed.checkpoint as dcp

        arrays = {name: np.empty(array.shape, np.float32) for name, array in self.arrays.items()}
        dcp.load(self._tensors(arrays), checkpoint_id=self._checkpoint(step))
        return arrays

    def close(self) -> None:
        self._dist.destroy_process_group()


class TorchDcpAsync(TorchDcp):
    """`dcp.async_save` with one stager for all saves, so that from the second on its memory exists already."""

    name = "dcp async"
    about = "torch.distributed.checkpoint.async_save, one stager whose memory is reused"

    def __init__(self, job: Job, directory: Path) -> None:
        super().__init__(job, directory)
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

        # What async_save makes for itself on a machine without an accelerator, but kept from save to save.
        self._stager = DefaultStager(StagingOptions(False, False, False, False))

    def save(self, step: int) -> Times:
        import torch.distributed.checkpoint as dcp

        began = time.monotonic()
        pending = dcp.async_save(self._state, checkpoint_id=self._checkpoint(step), async_stager=self._stager)
        returned = time.monotonic()
        pending.result()
        return Times(began, returned, time.monotonic())

    def close(self) -> None:
        self._stager.close()
        super().close()
