"""Several processes train together and checkpoint through one daemon. Plain numpy; nothing to download.

    ckptd serve --root /tmp/checkpoints &
    python examples/train_numpy.py --workers 4

Run it again and it continues from the newest checkpoint, also with another number of workers: each of them reads
the rows that it now holds, whichever worker saved them. Each worker fits its own rows of a large linear map by gradient
descent, so the processes need not talk to each other; what belongs to ckptd is in `train`.

Where something else starts the processes, and puts RANK and WORLD_SIZE into their environment, each of them is one
worker: deploy/kubernetes/example/ is a job of four.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from pathlib import Path

import numpy as np

import ckptd

ROWS, COLUMNS = 1000, 64


def train(
    address: str,
    run: str,
    rank: int,
    world_size: int,
    steps: int,
    save_every: int,
    token: str | None = None,
    ca: str | None = None,
) -> None:
    begin, end = ROWS * rank // world_size, ROWS * (rank + 1) // world_size
    truth = np.random.default_rng(0).standard_normal((ROWS, COLUMNS), np.float32)[begin:end]
    w = np.zeros((end - begin, COLUMNS), np.float32)
    step = 0

    member = {"run": run, "rank": rank, "world_size": world_size}
    with ckptd.Checkpointer(address, **member, max_to_keep=3, token=token, ca=ca) as ckpt:
        if ckpt.latest() is not None:
            restored = ckpt.restore(slices={"w": ((begin, 0), w.shape)})
            w, step = restored["w"], int(restored["step"])
            print(f"worker {rank} of {world_size} continues at step {step}", flush=True)

        while step < steps:
            x = np.random.default_rng((step, 1)).standard_normal((COLUMNS, 32), np.float32)
            error = (w - truth) @ x
            w -= 0.1 * error @ x.T / 32
            step += 1
            if step % save_every == 0:
                part = ckptd.Slice(w, full_shape=(ROWS, COLUMNS), start=(begin, 0))
                ckpt.save(step, {"w": part, "step": np.int64(step)})  # w may be changed at once

        ckpt.wait()
        newest = ckpt.latest()
    print(f"worker {rank} of {world_size}: error {np.abs(w - truth).max():.2e}, newest {newest.prefix}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = os.environ.get("CKPTD_ADDRESS", "unix://")
    parser.add_argument("address", nargs="?", default=here, help="the daemon's; default: CKPTD_ADDRESS or this host's")
    parser.add_argument("--run", default="examples/linear")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--save-every", type=int, default=50)
    parser.add_argument("--token-file", help="for a daemon on another host: the token that it requires")
    parser.add_argument("--ca", help="the same: the authority that signed its certificate, PEM")
    args = parser.parse_args()
    token = Path(args.token_file).read_text().strip() if args.token_file else None
    rest = (args.steps, args.save_every, token, args.ca)

    if "RANK" in os.environ:  # one of several that something else has started
        train(args.address, args.run, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), *rest)
        return

    # "spawn": a process that has used gRPC must not be forked.
    processes = multiprocessing.get_context("spawn")
    workers = [
        processes.Process(target=train, args=(args.address, args.run, rank, args.workers, *rest))
        for rank in range(args.workers)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    raise SystemExit(max(abs(worker.exitcode) for worker in workers))


if __name__ == "__main__":
    main()
