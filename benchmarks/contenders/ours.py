"""ckptd: by shared memory, with arrays that are made where they are saved from, and by the gRPC stream."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

import ckptd
from contenders.base import Contender, Job, Times

RUN = "bench"
_TIMEOUT_S = 600.0


class Ckptd(Contender):
    """`Checkpointer.save` in each process, to one daemon on this host, over the transport that it chooses."""

    name = "ckptd"
    about = "Checkpointer.save to a daemon on this host: shared memory"
    can_fill = True
    needs_daemon = True
    measures = ("save", "cold", "warm", "warm_into")

    def __init__(self, job: Job, directory: Path) -> None:
        super().__init__(job, directory)
        self._boxes = {piece.name: (piece.start, piece.shape) for piece in job.pieces()}
        self.join(job.addresses["daemon"])

    def join(self, address: str) -> None:
        self._checkpointer = ckptd.Checkpointer(
            address,
            run=RUN,
            rank=self.job.rank,
            world_size=self.job.processes,
            max_to_keep=1,
            timeout_s=_TIMEOUT_S,
        )
        self._checkpointer.latest()  # a connection

    def ready(self) -> None:
        self._checkpointer.prepare(self._named(self.arrays))  # goes on behind; a program trains before its first save

    def save(self, step: int) -> Times:
        return self._save(step, self.arrays)

    def _save(self, step: int, arrays: dict[str, np.ndarray], *, immutable: bool = False) -> Times:
        named = self._named(arrays)
        began = time.monotonic()
        pending = self._checkpointer.save(step, named, immutable=immutable)
        returned = time.monotonic()
        pending.result(_TIMEOUT_S)
        return Times(began, returned, time.monotonic())

    def _named(self, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        return {
            piece.name: arrays[piece.name]
            if piece.is_whole
            else ckptd.Slice(arrays[piece.name], full_shape=piece.full_shape, start=piece.start)
            for piece in self.job.pieces()
        }

    def restore(self, step: int, into: bool) -> dict[str, np.ndarray]:
        slices = None if self.job.small else self._boxes
        return self._checkpointer.restore(
            step, names=list(self._boxes), slices=slices, into=self.into if into else None
        )

    def leave(self) -> None:
        self._checkpointer.close()

    def close(self) -> None:
        self._checkpointer.close()


class CkptdStaging(Ckptd):
    """The arrays are made in the daemon's memory, so that `save` has nothing to copy."""

    name = "ckptd staging"
    about = "the same, with arrays made where they are saved from, and left alone: Checkpointer.staging, immutable=True"
    measures = ("save",)

    def before_save(self, step: int) -> None:
        staging = self._checkpointer.staging
        self._staged = {name: staging(name, array.shape, array.dtype) for name, array in self.arrays.items()}
        for name, array in self.arrays.items():
            np.copyto(self._staged[name], array)  # what the framework would compute right there

    def save(self, step: int) -> Times:
        return self._save(step, self._staged, immutable=True)


class CkptdStream(Ckptd):
    """As from another host: everything by gRPC, over the loopback interface."""

    name = "ckptd stream"
    about = "the same by gRPC only, as from another host, on the loopback interface"
    measures = ("save", "cold")

    def __init__(self, job: Job, directory: Path) -> None:
        os.environ["CKPTD_TRANSPORT"] = "stream"
        super().__init__(job, directory)
