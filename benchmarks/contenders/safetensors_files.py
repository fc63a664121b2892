"""safetensors: one file a process, synced by the benchmark."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import numpy as np

from contenders.base import Contender, MissingError, Times, sync, sync_below


class Safetensors(Contender):
    """`save_file` of what the rank holds; nothing merges the files, so restoring has to know which rank wrote what."""

    name = "safetensors"
    about = "save_file, one file a process; synced by the benchmark, safetensors syncs nothing"

    @classmethod
    def check(cls) -> None:
        if importlib.util.find_spec("safetensors") is None:
            raise MissingError("safetensors is not installed")

    def _path(self, step: int) -> Path:
        return self.directory / f"part-{step}-{self.job.rank}.safetensors"

    def save(self, step: int) -> Times:
        from safetensors.numpy import save_file

        began = time.monotonic()
        save_file(self.arrays, self._path(step))
        returned = time.monotonic()
        sync(self._path(step))
        return Times(began, returned, time.monotonic())

    def complete(self, step: int) -> None:
        sync_below(self.directory)

    def restore(self, step: int, into: bool) -> dict[str, np.ndarray]:
        from safetensors.numpy import load_file

        return load_file(self._path(step))
