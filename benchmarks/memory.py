"""How much the daemon's memory grows while a large save goes through it.

    python benchmarks/memory.py                  # 8 GiB from 4 workers: the workers need about 8 GiB of memory
    python benchmarks/memory.py --size 512MiB

The daemon's resident memory is sampled from /proc every 10 ms, and its own high-water mark read at the end, so
nothing between two samples is missed. Each worker saves many tensors that share one buffer, but its snapshot is as
large as its part of the save. A small save goes first, so that what is counted is growth, not start-up.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from measuring import memory_of, parse_size

import ckptd
from ckptd.demo.processes import Daemon

TENSOR_BYTES = 32 << 20


def work(address: str, rank: int, world_size: int, size: int, orders: object) -> None:
    tensor_bytes = min(TENSOR_BYTES, size)
    array = np.random.default_rng(rank).integers(0, 1 << 32, tensor_bytes // 4, np.uint32)
    with ckptd.Checkpointer(address, run="memory", rank=rank, world_size=world_size, max_to_keep=1) as ckpt:
        ckpt.save(0, {f"warm/{rank}": array[:1024]}).result()
        orders.send("warm")
        orders.recv()
        began = time.monotonic()
        many = {f"tensor/{rank}/{number}": array for number in range(max(1, size // tensor_bytes))}
        done = ckpt.save(1, many).result()
        orders.send((done.size_bytes, time.monotonic() - began))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="8GiB", help="of all workers together")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--dir", type=Path, help="where to write; default: a temporary directory")
    parser.add_argument("--limit", default="256MiB", help="exit code 1 if it grows by more")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    with TemporaryDirectory(prefix="ckptd-memory-", dir=args.dir) as temporary:
        place = Path(temporary)
        (place / "root").mkdir()
        daemon = Daemon(place / "root", place / "daemon.log", place / "daemon.json")
        processes = []
        try:
            daemon.wait_until_ready()
            address = "grpc://{}:{}".format(*daemon.port())
            spawn = multiprocessing.get_context("spawn")
            pipes = []
            each = parse_size(args.size) // args.workers
            for rank in range(args.workers):
                ours, theirs = spawn.Pipe()
                process = spawn.Process(target=work, args=(address, rank, args.workers, each, theirs), daemon=True)
                process.start()
                theirs.close()
                processes.append(process)
                pipes.append(ours)
            for pipe in pipes:
                pipe.recv()
            start = memory_of(daemon.pid)
            before = start["VmRSS"]
            samples = [before]
            done = threading.Event()

            def sample() -> None:
                while not done.wait(0.01):
                    samples.append(memory_of(daemon.pid)["VmRSS"])

            sampler = threading.Thread(target=sample, daemon=True)
            sampler.start()
            for pipe in pipes:
                pipe.send("go")
            results = [pipe.recv() for pipe in pipes]
            done.set()
            sampler.join()
            highest = memory_of(daemon.pid)["VmHWM"]
            peak = max(*samples, highest if highest > start["VmHWM"] else 0)  # it may be from before the save
            for process in processes:
                process.join(60)
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
            daemon.stop()

    growth = peak - before
    found = {
        "size_bytes": results[0][0],
        "seconds": max(seconds for _, seconds in results),
        "rss_before_bytes": before,
        "rss_peak_bytes": peak,
        "growth_bytes": growth,
        "samples": len(samples),
    }
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        print(
            f"{found['size_bytes'] / 2**30:.2f} GiB from {args.workers} workers in {found['seconds']:.1f} s; "
            f"the daemon grew from {before / 2**20:.0f} to {peak / 2**20:.0f} MiB: by {growth / 2**20:.0f} MiB"
        )
    raise SystemExit(growth > parse_size(args.limit))


if __name__ == "__main__":
    main()
