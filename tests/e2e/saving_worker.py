"""One rank of a job as a process that can be killed: it saves the steps that it is told on stdin.

Started as ``python -m tests.e2e.saving_worker ADDRESS RUN RANK WORLD_SIZE MAX_TO_KEEP``. A line ``STEP COUNT`` makes it
save `COUNT` numbers of a vector that all ranks save together; it answers with ``saved``, or the error's class and text.
A third word is the dtype of a second vector, ``half``, of as many numbers.
"""

from __future__ import annotations

import sys

import numpy as np

import ckptd

TIMEOUT_S = 90.0


def value_of(step: int, rank: int) -> float:
    """Return what every number of a rank's part is."""
    return step + rank / 8


def main(address: str, run: str, rank: int, world_size: int, max_to_keep: int) -> None:
    with ckptd.Checkpointer(
        address, run, rank=rank, world_size=world_size, max_to_keep=max_to_keep, timeout_s=TIMEOUT_S
    ) as checkpointer:
        print("ready", flush=True)
        for line in sys.stdin:
            words = line.split()
            step, count = map(int, words[:2])
            part = np.full(count, value_of(step, rank), np.float32)
            arrays = {"w": ckptd.Slice(part, (world_size * count,), (rank * count,)), "step": np.int64(step)}
            for dtype in words[2:]:
                numbers = (np.arange(count) % 1000 + value_of(step, rank)).astype(dtype)
                arrays["half"] = ckptd.Slice(numbers, (world_size * count,), (rank * count,))
            try:
                checkpointer.save(step, arrays).result(TIMEOUT_S)
            except ckptd.CkptdError as error:
                print(type(error).__name__, str(error).replace("\n", " "), flush=True)
            else:
                print("saved", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
