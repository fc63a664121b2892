"""A worker that saves without end and reports what was acknowledged; `deploy/try_compose` kills its daemon.

It runs in a container of the training service. Its lines: ``saving N`` before a save begins, ``saved N`` when it is
durable, ``lost N: why`` when the daemon was gone.
"""

import contextlib
import sys
import time
from pathlib import Path

import numpy as np

import ckptd

ADDRESS, RUN, SIZE_BYTES = sys.argv[1], sys.argv[2], int(sys.argv[3])
TOKEN = Path(sys.argv[4]).read_text().strip()


def say(line: str) -> None:
    print(line, flush=True)


weights = np.random.default_rng(0).standard_normal((SIZE_BYTES // 4,), np.float32)
with ckptd.Checkpointer(ADDRESS, run=RUN, timeout_s=30, token=TOKEN) as found:
    latest = found.latest()
step, ckpt = latest.step if latest else 0, None
while True:
    step += 1
    weights[step % weights.size] = step
    say(f"saving {step}")
    try:
        if ckpt is None:
            ckpt = ckptd.Checkpointer(
                ADDRESS, run=RUN, rank=0, world_size=1, max_to_keep=10_000, timeout_s=30, token=TOKEN
            )
        ckpt.save(step, {"weights": weights, "step": np.int64(step)}).result()
        say(f"saved {step}")
    except ckptd.CkptdError as e:
        say(f"lost {step}: {type(e).__name__}: {e}")
        if ckpt is not None:
            with contextlib.suppress(ckptd.CkptdError):  # it would say once more what `save` has said
                ckpt.close()
        ckpt = None
        time.sleep(0.2)
