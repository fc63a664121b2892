"""An evaluation job that follows a training job: each new checkpoint is read, measured, and the best one kept.

    ckptd serve --root /tmp/checkpoints &
    python examples/evaluate.py --timeout 60 &
    python examples/train_numpy.py --workers 4

It may be started before the training job, during it, or afterwards, and started again. It learns of a checkpoint only
when that is durable. Evaluation that is slower than training skips to the newest. The best checkpoint is pinned, so
that retention spares it; what was the best before is unpinned.
"""

from __future__ import annotations

import argparse
import os

import numpy as np

import ckptd

ROWS, COLUMNS = 1000, 64


def measure(w: np.ndarray) -> float:
    """Return the error on data that training never saw. Yours would be a validation set."""
    truth = np.random.default_rng(0).standard_normal((ROWS, COLUMNS), np.float32)
    x = np.random.default_rng(12345).standard_normal((COLUMNS, 256), np.float32)
    return float(np.abs((w - truth) @ x).mean())


def evaluate(address: str, run: str, until_step: int, timeout_s: float) -> bool:
    """Follow `run` up to `until_step`; false when nothing came for so long that training must be over or dead."""
    best: tuple[float, int] | None = None
    with ckptd.Checkpointer(address, run=run) as ckpt:
        for checkpoint in ckpt.watch(timeout_s=timeout_s):
            step = checkpoint.step
            assert step is not None
            try:
                error = measure(ckpt.restore(step, names=["w"])["w"])
                print(f"step {step}: error {error:.3e}", flush=True)
                if best is None or error < best[0]:
                    ckpt.pin(step)
                    if best is not None:
                        ckpt.unpin(best[1])
                    best = error, step
            except ckptd.NotFoundError:
                print(f"step {step} was deleted before it was read", flush=True)
            if step >= until_step:
                print(f"the best was step {best[1]}" if best else "nothing could be measured", flush=True)
                return True
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = os.environ.get("CKPTD_ADDRESS", "unix://")
    parser.add_argument("address", nargs="?", default=here, help="the daemon's; default: CKPTD_ADDRESS or this host's")
    parser.add_argument("--run", default="examples/linear")
    parser.add_argument("--until-step", type=int, default=200, help="end after this one")
    parser.add_argument("--timeout", type=float, default=60.0, help="end when nothing comes for so many seconds")
    args = parser.parse_args()
    raise SystemExit(0 if evaluate(args.address, args.run, args.until_step, args.timeout) else 1)


if __name__ == "__main__":
    main()
