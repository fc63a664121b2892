"""Several processes train a network on handwritten digits with FSDP2, and checkpoint through one daemon.

    pip install 'ckptd[demo,torch]'
    ckptd serve --root /tmp/checkpoints &
    python examples/train_torch.py --workers 4

Kill it whenever you like, and run it again: it continues from the newest checkpoint, also with another number of
workers, each of which reads the parts that it now holds. What belongs to ckptd is in `train`: one line that loads and
one that saves. The data are the 1,797 images that scikit-learn carries, so there is nothing to download.

With torchrun, which puts RANK and WORLD_SIZE into the environment, each process is one worker:

    torchrun --nproc-per-node 4 examples/train_torch.py
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import socket

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import ckptd
import ckptd.torch

BATCH = 96  # of all workers together; divides by 1, 2, 3 and 4


def make_model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 250), nn.ReLU(), nn.Linear(250, 250), nn.ReLU(), nn.Linear(250, 10))
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def train(address: str, run: str, steps: int, save_every: int) -> None:
    rank, world_size = dist.get_rank(), dist.get_world_size()
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32) / 16
    labels = torch.tensor(digits.target)
    test = torch.arange(len(labels)) % 5 == 0
    train_images, train_labels = images[~test], labels[~test]

    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    state = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "step": 0}

    with ckptd.Checkpointer(address, run, rank=rank, world_size=world_size, max_to_keep=3) as checkpointer:
        if checkpointer.latest() is not None:
            ckptd.torch.load(checkpointer, into=state)
            print(f"worker {rank} of {world_size} continues at step {state['step']}", flush=True)

        while state["step"] < steps:
            state["step"] += 1
            order = torch.Generator().manual_seed(state["step"])  # so every worker draws the same rows
            rows = torch.randint(len(train_labels), (BATCH,), generator=order)[rank::world_size]
            loss = nn.functional.cross_entropy(model(train_images[rows]), train_labels[rows])
            loss.backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            if state["step"] % save_every == 0:
                ckptd.torch.save(state, checkpointer, state["step"])  # training continues at once

        checkpointer.wait()
        newest = checkpointer.latest()

    with torch.no_grad():
        right = (model(images[test]).argmax(1) == labels[test]).float().mean()
    print(f"worker {rank} of {world_size}: {right:.1%} of the test right, newest {newest.prefix}", flush=True)


def work(rank: int, world_size: int, port: int, *rest: object) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    join(*rest)


def join(*rest: object) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # ckptd.torch tells how long each save stood still
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    train(*rest)
    dist.barrier()  # all leave together: gloo does not like a peer that has gone already
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = os.environ.get("CKPTD_ADDRESS", "unix://")
    parser.add_argument("address", nargs="?", default=here, help="the daemon's; default: CKPTD_ADDRESS or this host's")
    parser.add_argument("--run", default="examples/digits-torch")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--save-every", type=int, default=50)
    args = parser.parse_args()
    rest = (args.address, args.run, args.steps, args.save_every)

    if "RANK" in os.environ:  # one of several that something else has started
        join(*rest)
        return

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # "spawn": a process that has used gRPC must not be forked. This process is worker 0.
    processes = multiprocessing.get_context("spawn")
    workers = [
        processes.Process(target=work, args=(rank, args.workers, port, *rest), daemon=True)
        for rank in range(1, args.workers)
    ]
    for worker in workers:
        worker.start()
    work(0, args.workers, port, *rest)
    for worker in workers:
        worker.join()
    raise SystemExit(max([abs(worker.exitcode) for worker in workers], default=0))


if __name__ == "__main__":
    main()
