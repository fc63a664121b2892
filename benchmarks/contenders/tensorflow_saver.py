"""What TensorFlow's sharded Saver runs: SaveV2 in each process, MergeV2Checkpoints in one."""

from __future__ import annotations

import importlib.util
import os
import time
from pathlib import Path

import numpy as np

from contenders.base import Contender, Job, MissingError, Times, sync, sync_below


class TensorFlow(Contender):
    """SaveV2 of each rank's slices. TensorFlow syncs nothing: each process syncs its files, rank 0 the rest."""

    name = "tensorflow"
    about = "SaveV2 in each process, MergeV2Checkpoints in one; synced by the benchmark, TensorFlow syncs nothing"

    @classmethod
    def check(cls) -> None:
        if importlib.util.find_spec("tensorflow") is None:
            raise MissingError("tensorflow is not installed")

    def __init__(self, job: Job, directory: Path) -> None:
        super().__init__(job, directory)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import tensorflow as tf

        self._tf = tf
        self._tensors = [tf.constant(array) for array in self.arrays.values()]
        self._specs = [
            ""
            if piece.is_whole
            else f"{piece.full_shape[0]} {piece.full_shape[1]} {piece.start[0]},{piece.shape[0]}:0,{piece.shape[1]}"
            for piece in job.pieces()
        ]

    def save(self, step: int) -> Times:
        part = self.directory / f"part-{step}-{self.job.rank}"
        began = time.monotonic()
        self._tf.raw_ops.SaveV2(
            prefix=str(part), tensor_names=list(self.arrays), shape_and_slices=self._specs, tensors=self._tensors
        )
        returned = time.monotonic()
        for path in self.directory.glob(f"{part.name}.*"):
            sync(path)
        return Times(began, returned, time.monotonic())

    def complete(self, step: int) -> None:
        prefix = self.directory / f"model.ckpt-{step}"
        self._tf.raw_ops.MergeV2Checkpoints(
            checkpoint_prefixes=[str(self.directory / f"part-{step}-{rank}") for rank in range(self.job.processes)],
            destination_prefix=str(prefix),
            delete_old_dirs=False,
        )
        sync(Path(f"{prefix}.index"))
        sync_below(self.directory)

    def restore(self, step: int, into: bool) -> dict[str, np.ndarray]:
        found = self._tf.raw_ops.RestoreV2(
            prefix=str(self.directory / f"model.ckpt-{step}"),
            tensor_names=list(self.arrays),
            shape_and_slices=self._specs,
            dtypes=[self._tf.float32] * len(self.arrays),
        )
        return {name: tensor.numpy() for name, tensor in zip(self.arrays, found, strict=True)}
