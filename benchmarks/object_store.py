"""A durable save and a restore of the same bytes from several processes, in a bucket: ckptd, and bare clients.

    python benchmarks/object_store.py --start-server         # 1 GiB from 4 processes, 5 rounds, the tests' own server
    python benchmarks/object_store.py --size 256MiB --rounds 3

What takes part, in turns, so that a slow minute of the machine hits all of them:

- ckptd      Checkpointer.save in each process, over gRPC, to a daemon on this host, whose root is in the bucket; each
             process restores its own part, straight from the bucket into arrays that it has, as a trainer does
- the rest   each process uploads its bytes as one object, in parallel parts of 16 MiB, and reads them back in ranges of
             16 MiB: what the server and that client can do, with no checksums, no index and no wait for all ranks;
             the bytes are left in the memory in which the client brings them

*save* is from the first call to the last return, when everything is durable; *restore* likewise. For the ratios the
median of ckptd is compared with that of the fastest of the rest. Processor time is the kernel's too; memory
is the most that was resident at once, of the processes together, their data included. A first round warms up.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from bucket_clients import AT_ONCE, CLIENTS, PART_BYTES, Range, add_arguments, place
from measuring import cpu_of, forget_peak, markdown, medians, memory_of, parse_size

COLUMNS = 1024
OURS = "ckptd"
RAW = ("obstore unsigned", "obstore", "boto3", "s3fs put")


class Worker:
    """One process's bytes, and what it does with them for each contender."""

    def __init__(self, rank: int, args: argparse.Namespace, address: str, bucket: str, prefix: str) -> None:
        self.rank, self.args, self.prefix = rank, args, prefix
        rows = max(1, parse_size(args.size) // (args.processes * args.tensors * COLUMNS * 4))
        # Floats, as models are: of some integers TensorFlow cannot join slices, and then ranks fill a shard in turns.
        noise = np.random.default_rng(rank).integers(0, 1 << 32, (args.tensors, rows, COLUMNS), np.uint32)
        whole = noise.view(np.float32)
        self.arrays = {f"tensor_{number:03d}": whole[number] for number in range(args.tensors)}
        self.data = memoryview(whole.reshape(-1).view(np.uint8))
        self.rows = rows
        self.restored = {name: np.zeros_like(array) for name, array in self.arrays.items()}
        self.clients = {name: CLIENTS[name](bucket) for name in args.contenders if name != OURS}
        if OURS in args.contenders:
            import ckptd

            self.checkpointer = ckptd.Checkpointer(
                address, run="bench", rank=rank, world_size=args.processes, max_to_keep=1
            )

    def measured(self, action: str, contender: str, step: int) -> dict[str, float]:
        for array in self.restored.values():
            array.fill(0)
        forget_peak()
        cpu, began = cpu_of(), time.monotonic()
        held = getattr(self, action)(contender, step)
        ended, cpu = time.monotonic(), cpu_of() - cpu
        peak = memory_of()["VmHWM"]
        if action == "restore" and not self.is_right(contender, held):
            raise SystemExit(f"{contender} restored other bytes on rank {self.rank}")
        return {"began": began, "ended": ended, "cpu": cpu, "peak": peak}

    def save(self, contender: str, step: int) -> None:
        if contender != OURS:
            self.clients[contender].upload({self.key(contender, step): self.data})
            return
        import ckptd

        full, start = (self.rows * self.args.processes, COLUMNS), (self.rank * self.rows, 0)
        slices = {name: ckptd.Slice(array, full_shape=full, start=start) for name, array in self.arrays.items()}
        self.checkpointer.save(step, slices).result()

    def restore(self, contender: str, step: int) -> object:
        if contender == OURS:
            box = ((self.rank * self.rows, 0), (self.rows, COLUMNS))
            return self.checkpointer.restore(step, slices=dict.fromkeys(self.arrays, box), into=self.restored)
        return self.clients[contender].read(self.ranges(contender, step))

    def key(self, contender: str, step: int) -> str:
        return f"{self.prefix}/{contender.replace(' ', '-')}-{step}-{self.rank}"

    def ranges(self, contender: str, step: int) -> list[Range]:
        key, size = self.key(contender, step), len(self.data)
        return [Range(key, at, min(PART_BYTES, size - at)) for at in range(0, size, PART_BYTES)]

    def is_right(self, contender: str, held) -> bool:
        if contender == OURS:
            pairs = [(held[name].view(np.uint32), array.view(np.uint32)) for name, array in self.arrays.items()]
            return all(np.array_equal(got, expected) for got, expected in pairs)
        wanted = (self.data[at.start : at.start + at.size] for at in self.ranges(contender, 0))
        return all(got == expected for got, expected in zip(held, wanted, strict=True))


def work(rank: int, args: argparse.Namespace, address: str, bucket: str, prefix: str, orders: object) -> None:
    worker = Worker(rank, args, address, bucket, prefix)
    orders.send(len(worker.data))
    while (order := orders.recv()) is not None:
        orders.send(worker.measured(*order))
    if OURS in args.contenders:
        worker.checkpointer.close()


def one_turn(contender: str, step: int, pipes: list, daemon_pid: int, size: int) -> dict[str, float]:
    found = {}
    for action in ("save", "restore"):
        forget_peak(daemon_pid)
        daemon_cpu = cpu_of(daemon_pid)
        for pipe in pipes:
            pipe.send((action, contender, step))
        each = [pipe.recv() for pipe in pipes]
        gib = size / 2**30
        found |= {
            f"{action}_s": max(one["ended"] for one in each) - min(one["began"] for one in each),
            f"{action}_client_cpu_s_per_gib": sum(one["cpu"] for one in each) / gib,
            f"{action}_client_peak_mib": sum(one["peak"] for one in each) / 2**20,
            f"{action}_daemon_cpu_s_per_gib": (cpu_of(daemon_pid) - daemon_cpu) / gib if contender == OURS else 0.0,
            f"{action}_daemon_peak_mib": memory_of(daemon_pid)["VmHWM"] / 2**20 if contender == OURS else 0.0,
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="1GiB", help="of all processes together")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--tensors", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--contenders", nargs="+", choices=(OURS, *RAW), default=[OURS, *RAW])
    parser.add_argument("--json", action="store_true")
    add_arguments(parser)
    args = parser.parse_args()

    with place(args) as (bucket, prefix), TemporaryDirectory(prefix="ckptd-bench-") as temporary:
        from ckptd.demo.processes import Daemon

        root = f"s3://{bucket}/{prefix}/root"
        daemon = Daemon(root, Path(temporary) / "daemon.log", Path(temporary) / "daemon.json")
        spawn = multiprocessing.get_context("spawn")
        pipes, processes = [], []
        try:
            daemon.wait_until_ready()
            address = "grpc://{}:{}".format(*daemon.port())
            for rank in range(args.processes):
                ours, theirs = spawn.Pipe()
                process = spawn.Process(target=work, args=(rank, args, address, bucket, prefix, theirs), daemon=True)
                process.start()
                theirs.close()
                pipes.append(ours)
                processes.append(process)
            size = sum(pipe.recv() for pipe in pipes)
            rounds: dict[str, list[dict[str, float]]] = {name: [] for name in args.contenders}
            for number in range(args.rounds + 1):
                turn = number % len(args.contenders)
                for contender in [*args.contenders[turn:], *args.contenders[:turn]]:
                    found = one_turn(contender, number, pipes, daemon.pid, size)
                    if contender != OURS:
                        forget(bucket, f"{prefix}/{contender.replace(' ', '-')}-{number}-", args.processes)
                    if number:
                        rounds[contender].append(found)
            for pipe in pipes:
                pipe.send(None)
            for process in processes:
                process.join(60)
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
            daemon.stop()
    report(args, size, rounds)


def forget(bucket: str, start: str, count: int) -> None:
    from ckptd.storage.locations import open_store

    open_store(f"s3://{bucket}").delete([f"{start}{rank}" for rank in range(count)])


def report(args: argparse.Namespace, size: int, rounds: dict[str, list[dict[str, float]]]) -> None:
    middle = {name: medians(found) for name, found in rounds.items()}
    ratios = {}
    if OURS in middle and len(middle) > 1:
        for action in ("save", "restore"):
            best = min((name for name in middle if name != OURS), key=lambda name: middle[name][f"{action}_s"])
            ratio = middle[best][f"{action}_s"] / middle[OURS][f"{action}_s"]
            ratios[action] = {"best": best, "ratio": ratio}
    if args.json:
        print(json.dumps({"size_bytes": size, "rounds": rounds, "medians": middle, "ratios": ratios}, indent=2))
        return
    print(
        f"{size / 2**30:.2f} GiB from {args.processes} processes, {args.tensors} tensors, {AT_ONCE} requests at once "
        f"in each; medians of {args.rounds} rounds (min-max)\n"
    )
    measures = {"client_cpu_s_per_gib": 2, "daemon_cpu_s_per_gib": 2, "client_peak_mib": 0, "daemon_peak_mib": 0}
    heads = ("s", "MiB/s", "client CPU s/GiB", "daemon CPU s/GiB", "clients' peak MiB", "daemon's peak MiB")
    for action in ("save", "restore"):
        rows = []
        for name, found in middle.items():
            times = [one[f"{action}_s"] for one in rounds[name]]
            took = found[f"{action}_s"]
            figures = [f"{found[f'{action}_{measure}']:.{digits}f}" for measure, digits in measures.items()]
            if name != OURS:
                figures[1] = figures[3] = "-"
            rows.append(
                [name, f"{took:.2f} ({min(times):.2f}-{max(times):.2f})", f"{size / 2**20 / took:.0f}", *figures]
            )
        print(markdown([action, *heads], rows))
        if ratios:
            print(f"\nckptd reaches {ratios[action]['ratio']:.2f} of {ratios[action]['best']}\n")


if __name__ == "__main__":
    main()
