"""Orbax's AsyncCheckpointer, for JAX arrays that are spread over the processes."""

from __future__ import annotations

import importlib.util
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from contenders.base import Contender, Job, MissingError, Times, sync_below


class OrbaxAsync(Contender):
    """JAX arrays never change and lie in host memory here, so that nothing has to be copied before `save` returns."""

    name = "orbax async"
    about = "orbax.checkpoint.AsyncCheckpointer, of JAX arrays over gloo, which can't change and need no copy"
    does_small = False  # its arrays are spread over all processes; whole tensors that one process owns are another job

    @classmethod
    def check(cls) -> None:
        for needed in ("jax", "orbax.checkpoint"):
            try:
                found = importlib.util.find_spec(needed)
            except ModuleNotFoundError:
                found = None
            if found is None:
                raise MissingError(f"{needed} is not installed")

    def __init__(self, job: Job, directory: Path) -> None:
        super().__init__(job, directory)
        os.environ["JAX_PLATFORMS"] = "cpu"
        import jax
        import orbax.checkpoint as ocp

        self._jax, self._ocp = jax, ocp
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(job.addresses["meeting"], num_processes=job.processes, process_id=job.rank)
        mesh = jax.sharding.Mesh(np.array(jax.devices()), ("ranks",))
        self._sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("ranks"))
        full = {piece.name: piece.full_shape for piece in job.pieces()}
        self._state = {
            name: jax.make_array_from_process_local_data(self._sharding, array, full[name])
            for name, array in self.arrays.items()
        }
        self._checkpointer = ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler())

    def _checkpoint(self, step: int) -> Path:
        return self.directory / f"step-{step}"

    def save(self, step: int) -> Times:
        began = time.monotonic()
        self._checkpointer.save(self._checkpoint(step), args=self._ocp.args.PyTreeSave(self._state))
        returned = time.monotonic()
        self._checkpointer.wait_until_finished()
        return Times(began, returned, time.monotonic())

    def complete(self, step: int) -> None:
        sync_below(self.directory)

    def restore(self, step: int, into: bool) -> dict[str, np.ndarray]:
        how = {name: self._ocp.ArrayRestoreArgs(sharding=self._sharding) for name in self._state}
        restored: dict[str, Any] = self._checkpointer.restore(
            self._checkpoint(step), args=self._ocp.args.PyTreeRestore(restore_args=how)
        )
        return {name: np.asarray(array.addressable_shards[0].data) for name, array in restored.items()}

    def close(self) -> None:
        self._checkpointer.close()
        self._jax.distributed.shutdown()
