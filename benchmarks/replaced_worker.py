"""One rank that restores the newest step and saves the next ones, for ever; what fails, it begins again.

python benchmarks/replaced_worker.py ADDRESS RUN RANK WORLD_SIZE BYTES TENSORS

Its lines are ``restored STEP SECONDS``, ``saved STEP SECONDS`` and ``failed STEP SECONDS WHY``, on a clock of the host.
It ends when its standard input does. See host_replaced.py.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

import ckptd

_COLUMNS = 256
_TIMEOUT_S = 120.0
_BETWEEN_S = 0.1  # training


def say(what: str, step: int, why: str = "") -> None:
    print(what, step, time.monotonic(), why.replace("\n", " "), flush=True)


def values_of(step: int, rank: int, rows: int, tensor: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.full((rows, _COLUMNS), step + rank / 8 + tensor / 1024, np.float32)


def restored(found: Mapping[str, Any], step: int, rank: int, rows: int, tensors: int) -> None:
    for tensor in range(tensors):
        ours = found[f"tensor_{tensor:03d}"][rank * rows : (rank + 1) * rows]
        if not (ours == values_of(step, rank, rows, tensor)).all():
            raise SystemExit(f"step {step} was restored with other values")


def main(address: str, run: str, rank: int, world_size: int, size_bytes: int, tensors: int) -> None:
    rows = max(1, size_bytes // (tensors * _COLUMNS * 4))
    is_over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), is_over.set()), daemon=True).start()
    while not is_over.is_set():
        step = 0
        try:
            with ckptd.Checkpointer(
                address, run, rank=rank, world_size=world_size, max_to_keep=20, timeout_s=_TIMEOUT_S
            ) as checkpointer:
                latest = checkpointer.latest()
                step = 0 if latest is None or latest.step is None else latest.step
                if step:
                    found = checkpointer.restore(step)
                    say("restored", step)
                    restored(found, step, rank, rows, tensors)
                while not is_over.is_set():
                    step += 1
                    arrays = {
                        f"tensor_{tensor:03d}": ckptd.Slice(
                            values_of(step, rank, rows, tensor), (world_size * rows, _COLUMNS), (rank * rows, 0)
                        )
                        for tensor in range(tensors)
                    }
                    checkpointer.save(step, arrays).result(_TIMEOUT_S)
                    say("saved", step)
                    is_over.wait(_BETWEEN_S)
        except ckptd.CkptdError as error:
            say("failed", step, f"{type(error).__name__}: {error}")
            is_over.wait(_BETWEEN_S)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
