"""A worker that saves without end and reports what was acknowledged; `deploy/try_compose` kills its daemon.

It runs in a container of the training service; with RANK and WORLD_SIZE it is one of several, each on a host of its
own, that save together. Its lines: ``saving N`` before a save begins, ``saved N`` when it is durable, ``lost N: why``
when the daemon, or another rank, was gone.
"""

import contextlib
import os
import sys
import time
from pathlib import Path

import numpy as np

import ckptd

ADDRESS, RUN, SIZE_BYTES = sys.argv[1], sys.argv[2], int(sys.argv[3])
TOKEN = Path(sys.argv[4]).read_text().strip()
RANK, WORLD_SIZE = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def say(line: str) -> None:
    print(line, flush=True)


def newest() -> int:
    with ckptd.Checkpointer(ADDRESS, run=RUN, timeout_s=30, token=TOKEN) as found:
        latest = found.latest()
    return latest.step if latest else 0


weights = np.random.default_rng(0).standard_normal((SIZE_BYTES // 4,), np.float32)
count = weights.size
ckpt = step = None
while True:
    if step is None:
        try:
            step = newest()  # all ranks go on behind it
        except ckptd.CkptdError:
            time.sleep(0.2)
            continue
    step += 1
    weights[step % weights.size] = step
    say(f"saving {step}")
    try:
        if ckpt is None:
            ckpt = ckptd.Checkpointer(
                ADDRESS, run=RUN, rank=RANK, world_size=WORLD_SIZE, max_to_keep=10_000, timeout_s=30, token=TOKEN
            )
        part = ckptd.Slice(weights, full_shape=(WORLD_SIZE * count,), start=(RANK * count,))
        ckpt.save(step, {"weights": part, "step": np.int64(step)}).result()
        say(f"saved {step}")
    except ckptd.CkptdError as e:
        say(f"lost {step}: {type(e).__name__}: {e}")
        if ckpt is not None:
            with contextlib.suppress(ckptd.CkptdError):  # it would say once more what `save` has said
                ckpt.close()
        ckpt = step = None
        time.sleep(0.2)
