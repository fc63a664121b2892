"""A save of very many workers with very many slices each, through the real protocol: what the coordinator needs.

    python benchmarks/many_workers.py --dir /mnt/disk         # 1,000 workers × 1,000 slices: a million
    python benchmarks/many_workers.py --workers 100 --slices 100 --saves 3

Every worker holds one row of each tensor, and speaks as a `Checkpointer` does: see simulated_workers.py. They live in a
few processes, twenty-five share a connection, and all share this host's cores with the daemon, which workers on hosts
of their own would not. All begin a save at once. Some tensors of the last checkpoint are read back and compared.

- commit   in the daemon, from the last byte of the last rank until the checkpoint is published, as its log tells
- save     from the first call to the last result
- first    the same for the first save, whose layout has to be declared in full and planned; later ones say its digest
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import time
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from machine import describe, in_words
from measuring import cpu_of, markdown, memory_of, shared_memory_of
from simulated_workers import COLUMNS, SimulatedWorker, connections, value_of

import ckptd
from ckptd.demo.processes import Daemon

_TIMEOUT_S = 600.0


def work(address: str, ranks: range, num_workers: int, num_slices: int, orders: Any) -> None:
    asyncio.run(_work(address, ranks, num_workers, num_slices, orders))


async def _work(address: str, ranks: range, num_workers: int, num_slices: int, orders: Any) -> None:
    """Be several workers on one event loop."""
    channels = connections(address, len(ranks))
    workers = [
        SimulatedWorker(channels[number % len(channels)], rank, num_workers, num_slices)
        for number, rank in enumerate(ranks)
    ]
    await asyncio.gather(*(worker.join() for worker in workers))
    orders.send("ready")
    while (step := await asyncio.to_thread(orders.recv)) is not None:
        began, cpu_before = time.monotonic(), cpu_of()
        await asyncio.gather(*(worker.save(step) for worker in workers))
        orders.send((began, time.monotonic(), cpu_of() - cpu_before))
    for worker in workers:
        worker.leave()
    orders.send("left")


def measure(args: argparse.Namespace, place: Path) -> dict[str, Any]:
    (place / "root").mkdir()
    daemon = Daemon(
        place / "root",
        place / "daemon.log",
        place / "daemon.json",
        ("--log-format=json", *args.daemon_option),
    )
    processes, pipes = [], []
    try:
        daemon.wait_until_ready()
        idle = memory_of(daemon.pid)["VmRSS"]
        address = "grpc://{}:{}".format(*daemon.port())
        spawn = multiprocessing.get_context("spawn")
        cut = [args.workers * number // args.processes for number in range(args.processes + 1)]
        for begin, end in pairwise(cut):
            ours, theirs = spawn.Pipe()
            mine = (address, range(begin, end), args.workers, args.slices, theirs)
            process = spawn.Process(target=work, args=mine, daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            pipes.append(ours)
        heard(pipes)
        saves = []
        for step in range(1, args.saves + 1):
            daemon_before = cpu_of(daemon.pid)
            for pipe in pipes:
                pipe.send(step)
            answers = heard(pipes)
            saves.append(
                {
                    "save_s": max(ended for _, ended, _ in answers) - min(began for began, _, _ in answers),
                    "daemon_cpu_s": cpu_of(daemon.pid) - daemon_before,
                    "clients_cpu_s": sum(cpu for *_, cpu in answers),
                }
            )
        peak = memory_of(daemon.pid)["VmHWM"] - shared_memory_of(daemon.pid)
        for pipe in pipes:
            pipe.send(None)
        heard(pipes)
        for process in processes:
            process.join(60)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
        daemon.stop()
    check(place / "root" / "many", args)
    for save, line in zip(saves, lines_about_saves(place / "daemon.log"), strict=True):
        save["commit_s"] = line["commit_s"]
    commits = [save["commit_s"] for save in saves]
    return {
        "workers": args.workers,
        "slices": args.workers * args.slices,
        "client_processes": args.processes,
        "commit_p50_s": float(np.quantile(commits, 0.5)),
        "commit_p99_s": float(np.quantile(commits, 0.99)),
        "daemon_idle_bytes": idle,
        "daemon_peak_bytes": peak,
        "saves": saves,
    }


def check(directory: Path, args: argparse.Namespace) -> None:
    """Read some of the tensors of the latest checkpoint: whole, so that every checksum of theirs is compared."""
    reader = ckptd.load_checkpoint(directory)
    if len(reader) != args.slices:
        raise SystemExit(f"the checkpoint has {len(reader)} tensors, not {args.slices}")
    for tensor in {0, args.slices // 2, args.slices - 1}:
        expected = np.array([[value_of(rank, tensor)] * COLUMNS for rank in range(args.workers)], np.float32)
        if not np.array_equal(reader.get_tensor(f"model/layer_{tensor:04d}/weights"), expected):
            raise SystemExit(f"tensor {tensor} has other values")


def heard(pipes: list[Any]) -> list[Any]:
    answers = []
    for pipe in pipes:
        if not pipe.poll(_TIMEOUT_S):
            raise SystemExit(f"the workers were silent for {_TIMEOUT_S:.0f} s")
        answers.append(pipe.recv())
    return answers


def lines_about_saves(log: Path) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in log.read_text().splitlines() if line.startswith("{"))
    return [line for line in lines if line.get("event") == "saved"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--slices", type=int, default=1000, help="of each worker")
    parser.add_argument("--processes", type=int, default=4, help="that the workers live in")
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument("--daemon-option", action="append", default=[], help="of ckptd serve")
    parser.add_argument("--dir", type=Path, help="where to write; default: a temporary directory")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    args.processes = min(args.processes, args.workers)

    with TemporaryDirectory(prefix="ckptd-many-", dir=args.dir) as temporary:
        machine = describe(Path(temporary))
        found = measure(args, Path(temporary))
    if args.json:
        print(json.dumps({"machine": machine, **found}, indent=2))
        return
    print(f"{found['slices']:,} slices of {args.workers:,} workers in {args.processes} processes; {in_words(machine)}")
    print(
        f"commit: {found['commit_p50_s']:.2f} s (p99 of {len(found['saves'])} saves: {found['commit_p99_s']:.2f} s); "
        f"the daemon's memory: {found['daemon_idle_bytes'] / 2**20:.0f} MiB idle, "
        f"{found['daemon_peak_bytes'] / 2**20:.0f} MiB at most\n"
    )
    rows = [
        (
            "first" if number == 1 else str(number),
            f"{save['save_s']:.2f}",
            f"{save['commit_s']:.2f}",
            f"{save['daemon_cpu_s']:.2f}",
            f"{save['clients_cpu_s']:.2f}",
        )
        for number, save in enumerate(found["saves"], 1)
    ]
    print(markdown(("save", "save s", "commit s", "daemon's CPU s", "clients' CPU s"), rows))


if __name__ == "__main__":
    main()
