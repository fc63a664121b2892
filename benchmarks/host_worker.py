"""One rank that saves and restores what it is told on stdin, and answers with seconds. See hosts_together.py.

python benchmarks/host_worker.py ADDRESS RUN RANK WORLD_SIZE BYTES TENSORS
"""

from __future__ import annotations

import sys
import time

import numpy as np

import ckptd

COLUMNS = 256
_TIMEOUT_S = 600.0


def main(address: str, run: str, rank: int, world_size: int, size_bytes: int, num_tensors: int) -> None:
    rows = max(1, size_bytes // (num_tensors * COLUMNS * 4))
    noise = np.random.default_rng(rank).integers(0, 1 << 32, (num_tensors, rows, COLUMNS), np.uint32)
    arrays = {
        f"tensor_{number:03d}": ckptd.Slice(
            noise.view(np.float32)[number], (world_size * rows, COLUMNS), (rank * rows, 0)
        )
        for number in range(num_tensors)
    }
    with ckptd.Checkpointer(
        address, run, rank=rank, world_size=world_size, max_to_keep=1, timeout_s=_TIMEOUT_S
    ) as checkpointer:
        print("ready", flush=True)
        for line in sys.stdin:
            action, step = line.split()
            began = time.monotonic()
            if action == "save":
                pending = checkpointer.save(int(step), arrays)
                stall_s = time.monotonic() - began
                pending.result(_TIMEOUT_S)
            else:
                stall_s = 0.0
                found = checkpointer.restore(int(step))
                name = f"tensor_{num_tensors - 1:03d}"
                ours = found[name][rank * rows : (rank + 1) * rows]
                if ours.tobytes() != noise[num_tensors - 1].tobytes():
                    raise SystemExit("it was restored with other values")
            print(began, time.monotonic(), stall_s, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
