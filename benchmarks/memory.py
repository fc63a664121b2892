"""How much memory the daemon needs, beyond its arenas, while large saves go through it; and how long they take.

    python benchmarks/memory.py                              # 10 GiB from 8 workers, three saves
    python benchmarks/memory.py --size 512MiB --workers 4
    python benchmarks/memory.py --transport stream                # as if the workers were on other hosts

The workers themselves need little: their tensors share one buffer of 32 MiB each. The daemon's arenas are as large as
what is saved, as far as `--arena-bytes` allows; by the stream each worker holds a copy of its part instead. What counts
is the daemon's resident memory without what it shares with the workers, sampled from /proc every 10 ms. A small save
goes first, so that the growth is growth and not start-up.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from measuring import cpu_of, markdown, memory_of, parse_size, shared_memory_of

import ckptd
from ckptd.demo.processes import Daemon

TENSOR_BYTES = 32 << 20


def work(address: str, rank: int, world_size: int, size: int, orders: Any) -> None:
    tensor_bytes = min(TENSOR_BYTES, size)
    array = np.random.default_rng(rank).integers(0, 1 << 32, tensor_bytes // 4, np.uint32)
    many = {f"tensor/{rank}/{number}": array for number in range(max(1, size // tensor_bytes))}
    with ckptd.Checkpointer(address, run="memory", rank=rank, world_size=world_size, max_to_keep=1) as ckpt:
        ckpt.save(0, {f"warm/{rank}": array[:1024]}).result()
        orders.send("warm")
        while (step := orders.recv()) is not None:
            if step == 0:
                ckpt.prepare(many)
                orders.send(0)
                continue
            began = time.monotonic()
            pending = ckpt.save(step, many)
            returned = time.monotonic()
            done = pending.result()
            orders.send((done.size_bytes, began, returned, time.monotonic()))


class Watch:
    """Samples a process's memory, what it shares left out."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self.own: list[int] = []
        self.shared: list[int] = []
        self._sample()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        shared = shared_memory_of(self._pid)
        self.own.append(memory_of(self._pid)["VmRSS"] - shared)
        self.shared.append(shared)

    def _run(self) -> None:
        while not self._over.wait(0.01):
            self._sample()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


def measure(args: argparse.Namespace, place: Path) -> dict[str, Any]:
    (place / "root").mkdir()
    daemon = Daemon(place / "root", place / "daemon.log", place / "daemon.json", args.daemon_option)
    processes, pipes = [], []
    try:
        daemon.wait_until_ready()
        address = "grpc://{}:{}".format(*daemon.port())
        spawn = multiprocessing.get_context("spawn")
        each = parse_size(args.size) // args.workers
        for rank in range(args.workers):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=work, args=(address, rank, args.workers, each, theirs), daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            pipes.append(ours)

        def everyone(step: int | None) -> list[Any]:
            for pipe in pipes:
                pipe.send(step)
            return [pipe.recv() for pipe in pipes]

        for pipe in pipes:
            pipe.recv()
        watch = Watch(daemon.pid)
        everyone(0)
        time.sleep(args.prepared_s)
        saves = []
        for step in range(1, args.saves + 1):
            cpu = cpu_of(daemon.pid)
            answers = everyone(step)
            saves.append(
                {
                    "stall_s": max(returned - began for _, began, returned, _ in answers),
                    "durable_s": max(a[3] for a in answers) - min(a[1] for a in answers),
                    "daemon_cpu_s": cpu_of(daemon.pid) - cpu,
                }
            )
        watch.stop()
        for pipe in pipes:
            pipe.send(None)
        for process in processes:
            process.join(60)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
        daemon.stop()
    return {
        "size_bytes": answers[0][0],
        "workers": args.workers,
        "saves": saves,
        "rss_before_bytes": watch.own[0],
        "rss_peak_bytes": max(watch.own),
        "growth_bytes": max(watch.own) - watch.own[0],
        "arena_bytes": max(watch.shared),
        "samples": len(watch.own),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="10GiB", help="of all workers together")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--saves", type=int, default=3)
    parser.add_argument("--prepared-s", type=float, default=5.0, help="between joining and the first save")
    parser.add_argument(
        "--transport", choices=("own", "stream"), default="own", help="own: what ckptd chooses by itself"
    )
    parser.add_argument("--daemon-option", action="append", default=[], help="of ckptd serve: =--arena-bytes=4GiB")
    parser.add_argument("--dir", type=Path, help="where to write; default: a temporary directory")
    parser.add_argument("--limit", default="256MiB", help="exit code 1 if it needs more beyond its arenas")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.transport == "stream":
        os.environ["CKPTD_TRANSPORT"] = "stream"

    with TemporaryDirectory(prefix="ckptd-memory-", dir=args.dir) as temporary:
        found = measure(args, Path(temporary))
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        print(
            f"{found['size_bytes'] / 2**30:.2f} GiB from {args.workers} workers. Beyond "
            f"{found['arena_bytes'] / 2**20:,.0f} MiB of arenas the daemon needed at most "
            f"{found['rss_peak_bytes'] / 2**20:.0f} MiB, {found['growth_bytes'] / 2**20:.0f} MiB more than before.\n"
        )
        rows = [
            (
                str(number),
                f"{save['stall_s']:.2f}",
                f"{save['durable_s']:.2f}",
                f"{found['size_bytes'] / save['durable_s'] / 1e9:.2f}",
                f"{save['daemon_cpu_s']:.2f}",
            )
            for number, save in enumerate(found["saves"], 1)
        ]
        print(markdown(("save", "stall s", "durable s", "GB/s", "daemon's CPU s"), rows))
    raise SystemExit(found["rss_peak_bytes"] > parse_size(args.limit))


if __name__ == "__main__":
    main()
