"""Each framework's own state, saved by ckptd's adapter for it, and by the framework's own way of not waiting.

The contenders for `torch.distributed.checkpoint` and Orbax are in modules of their own. Here all of a save counts, from
the framework's call on; restores are measured elsewhere, as they go the same way as all of ckptd's.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from contenders.base import Contender, Job, Times, sync_below
from contenders.orbax_async import OrbaxAsync
from contenders.tensorflow_saver import TensorFlow
from contenders.torch_dcp import TorchDcp

_RUN = "bench"
_TIMEOUT_S = 600.0


class CkptdTorch(TorchDcp):
    """`ckptd.torch.save` of the DTensors that `dcp.async_save` gets."""

    name = "ckptd.torch"
    about = "ckptd.torch.save of the same DTensors"
    needs_daemon = True
    measures = ("save",)

    def __init__(self, job: Job, directory: Path) -> None:
        super().__init__(job, directory)
        import ckptd

        self._checkpointer = ckptd.Checkpointer(
            job.addresses["daemon"], _RUN, rank=job.rank, world_size=job.processes, max_to_keep=1
        )

    def ready(self) -> None:
        from ckptd.torch import named_parts

        self._checkpointer.prepare(named_parts(self._state))

    def save(self, step: int) -> Times:
        import ckptd.torch

        began = time.monotonic()
        pending = ckptd.torch.save(self._state, self._checkpointer, step)
        returned = time.monotonic()
        pending.result(_TIMEOUT_S)
        return Times(began, returned, time.monotonic())

    def complete(self, step: int) -> None:
        """Nothing: it is durable."""

    def close(self) -> None:
        self._checkpointer.close()
        super().close()


class CkptdDcp(TorchDcp):
    """`dcp.async_save` with nothing changed but the storage; one writer for all saves, as with DCP's own stager."""

    name = "ckptd.torch dcp"
    about = "torch.distributed.checkpoint.async_save to a CkptdStorageWriter"
    needs_daemon = True
    measures = ("save",)

    def __init__(self, job: Job, directory: Path) -> None:
        super().__init__(job, directory)
        from ckptd.torch import CkptdStorageWriter

        self._writer = CkptdStorageWriter(job.addresses["daemon"], run=_RUN, max_to_keep=1)

    def ready(self) -> None:
        self._writer.prepare(self._state)

    def save(self, step: int) -> Times:
        import torch.distributed.checkpoint as dcp

        began = time.monotonic()
        pending = dcp.async_save(self._state, checkpoint_id=str(step), storage_writer=self._writer)
        returned = time.monotonic()
        pending.result()
        return Times(began, returned, time.monotonic())

    def complete(self, step: int) -> None:
        """Nothing: it is durable."""


class CkptdJax(OrbaxAsync):
    """`ckptd.jax.CheckpointManager.save` of the arrays that Orbax gets."""

    name = "ckptd.jax"
    about = "ckptd.jax.CheckpointManager.save of the same arrays"
    needs_daemon = True
    measures = ("save",)

    def __init__(self, job: Job, directory: Path) -> None:
        super().__init__(job, directory)
        import ckptd.jax

        options = ckptd.jax.CheckpointManagerOptions(max_to_keep=1)
        self._manager = ckptd.jax.CheckpointManager(_RUN, options=options, address=job.addresses["daemon"])

    def ready(self) -> None:
        self._manager.prepare(self._state)

    def save(self, step: int) -> Times:
        began = time.monotonic()
        self._manager.save(step, self._state)
        returned = time.monotonic()
        self._manager.wait_until_finished()
        return Times(began, returned, time.monotonic())

    def complete(self, step: int) -> None:
        """Nothing: it is durable."""

    def close(self) -> None:
        self._manager.close()
        super().close()


class _Variables(Contender):
    """A `tf.train.Checkpoint` of variables: a whole checkpoint in each process, as objects have no slices there."""

    does_small = False
    measures = ("save",)
    check = TensorFlow.check

    def __init__(self, job: Job, directory: Path) -> None:
        super().__init__(job, directory)
        import tensorflow as tf

        self._tf = tf
        variables = {name: tf.Variable(array) for name, array in self.arrays.items()}
        self._checkpoint = tf.train.Checkpoint(**variables)
        self._manager: Any = None

    def restore(self, step: int, into: bool) -> dict[str, np.ndarray]:
        raise NotImplementedError  # `measures` names saves only, so this is never called


class TensorFlowAsync(_Variables):
    """TensorFlow's CheckpointManager with its asynchronous checkpoint."""

    name = "tensorflow async"
    about = "tf.train.CheckpointManager.save with experimental_enable_async_checkpoint, one checkpoint per process"

    def __init__(self, job: Job, directory: Path) -> None:
        super().__init__(job, directory)
        self._options = self._tf.train.CheckpointOptions(experimental_enable_async_checkpoint=True)
        own = directory / f"rank-{job.rank}"
        self._manager = self._tf.train.CheckpointManager(self._checkpoint, str(own), max_to_keep=1)

    def save(self, step: int) -> Times:
        began = time.monotonic()
        self._manager.save(step, options=self._options)
        returned = time.monotonic()
        self._checkpoint.sync()
        return Times(began, returned, time.monotonic())

    def complete(self, step: int) -> None:
        sync_below(self.directory)


class CkptdTensorFlow(_Variables):
    """Our CheckpointManager, not waiting; a run for each process."""

    name = "ckptd.tensorflow"
    about = "ckptd.tensorflow.CheckpointManager.save(wait=False), one checkpoint per process"
    needs_daemon = True

    def __init__(self, job: Job, directory: Path) -> None:
        super().__init__(job, directory)
        import ckptd.tensorflow

        self._manager = ckptd.tensorflow.CheckpointManager(
            self._checkpoint,
            f"rank-{job.rank}",
            max_to_keep=1,
            address=job.addresses["daemon"],
            rank=0,
            world_size=1,
        )

    def ready(self) -> None:
        self._manager.prepare()

    def save(self, step: int) -> Times:
        began = time.monotonic()
        self._manager.save(step, wait=False)
        returned = time.monotonic()
        self._manager.sync()
        return Times(began, returned, time.monotonic())

    def close(self) -> None:
        self._manager.close()
