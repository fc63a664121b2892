"""A durable save and a restore of the same arrays from several processes: ckptd, TensorFlow, and the bare disk.

    python benchmarks/save_restore.py                        # 2 GiB from 4 processes, 5 rounds
    python benchmarks/save_restore.py --size 256MiB --rounds 3 --dir /mnt/disk

What takes part, in turns, so that a slow minute of the machine hits all of them:

- raw         each process writes its bytes to one file, O_DIRECT, 8 MiB at a time, and fsyncs: what the disk can do
- tensorflow  what its sharded Saver runs: SaveV2 in each process, MergeV2Checkpoints in one; TensorFlow syncs nothing,
              so the driver fsyncs every file and the directory, or it would be compared with a promise not made
- ckptd       Checkpointer.save in each process, over gRPC, to a daemon on this host

Every tensor is cut along axis 0, a part per process. *stall* is until the save call has returned on the slowest
process; *durable* until everything is on disk, from the first call to the last return; *restore* is each process
reading its own parts back into fresh memory, the page cache dropped before. A first round warms up and is shown apart.
"""

from __future__ import annotations

import argparse
import json
import mmap
import multiprocessing
import os
import shutil
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from measuring import parse_size

CONTENDERS = ("raw", "tensorflow", "ckptd")
BLOCK = 8 << 20
COLUMNS = 1024


class Worker:
    """One process's arrays, and what it does with them for each contender."""

    def __init__(self, rank: int, args: argparse.Namespace, address: str | None) -> None:
        self.rank, self.args = rank, args
        rows_total = max(args.processes, parse_size(args.size) // (args.tensors * COLUMNS * 4))
        self.rows_full = rows_total // args.processes * args.processes
        self.rows = self.rows_full // args.processes
        random = np.random.default_rng(rank)
        self.arrays = {
            f"tensor_{number:03d}": random.integers(0, 1 << 32, (self.rows, COLUMNS), np.uint32).view(np.float32)
            for number in range(args.tensors)
        }
        self.size = sum(array.nbytes for array in self.arrays.values())
        self.address = address
        self.checkpointer = None
        self.tensors = None

    def prepare(self, contender: str) -> None:
        if contender == "tensorflow":
            import tensorflow as tf

            self.tensors = [tf.constant(array) for array in self.arrays.values()]
        elif contender == "ckptd":
            import ckptd

            self.checkpointer = ckptd.Checkpointer(
                self.address, run="bench", rank=self.rank, world_size=self.args.processes, max_to_keep=1
            )

    def specs(self) -> list[str]:
        start = self.rank * self.rows
        return [f"{self.rows_full} {COLUMNS} {start},{self.rows}:0,{COLUMNS}"] * len(self.arrays)

    def save(self, contender: str, directory: str, step: int) -> tuple[float, float, float]:
        """Return when the call began, when it returned, and when its bytes were durable (not yet for TensorFlow)."""
        began = time.monotonic()
        if contender == "raw":
            self.write_directly(Path(directory) / f"raw-{self.rank}")
            returned = durable = time.monotonic()
        elif contender == "tensorflow":
            import tensorflow as tf

            part = f"{directory}/part-{self.rank}-of-{self.args.processes}"
            tf.raw_ops.SaveV2(
                prefix=part, tensor_names=list(self.arrays), shape_and_slices=self.specs(), tensors=self.tensors
            )
            returned = durable = time.monotonic()
        else:
            import ckptd

            start = (self.rank * self.rows, 0)
            full = (self.rows_full, COLUMNS)
            pending = self.checkpointer.save(
                step, {name: ckptd.Slice(array, full_shape=full, start=start) for name, array in self.arrays.items()}
            )
            returned = time.monotonic()
            pending.result()
            durable = time.monotonic()
        return began, returned, durable

    def write_directly(self, path: Path) -> None:
        bounce = mmap.mmap(-1, BLOCK)  # page-aligned, as O_DIRECT wants it
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DIRECT, 0o644)
        try:
            filled = 0
            for array in self.arrays.values():
                data = memoryview(array).cast("B")
                while len(data):
                    taken = min(len(data), BLOCK - filled)
                    bounce[filled : filled + taken] = data[:taken]
                    data, filled = data[taken:], filled + taken
                    if filled == BLOCK:
                        os.write(fd, bounce)
                        filled = 0
            if filled:
                padded = -(-filled // 4096) * 4096
                os.write(fd, memoryview(bounce)[:padded])
            os.fsync(fd)
        finally:
            os.close(fd)

    def restore(self, contender: str, directory: str, step: int) -> tuple[float, float, float]:
        began = time.monotonic()
        if contender == "raw":
            restored = self.read_directly(Path(directory) / f"raw-{self.rank}")
        elif contender == "tensorflow":
            import tensorflow as tf

            found = tf.raw_ops.RestoreV2(
                prefix=f"{directory}/model.ckpt-{step}",
                tensor_names=list(self.arrays),
                shape_and_slices=self.specs(),
                dtypes=[tf.float32] * len(self.arrays),
            )
            restored = {name: tensor.numpy() for name, tensor in zip(self.arrays, found, strict=True)}
        else:
            box = ((self.rank * self.rows, 0), (self.rows, COLUMNS))
            restored = self.checkpointer.restore(step, slices=dict.fromkeys(self.arrays, box))
        ended = time.monotonic()
        for name, array in self.arrays.items():
            if not np.array_equal(restored[name].view(np.uint32), array.view(np.uint32)):
                raise SystemExit(f"{contender} restored other values for {name} on rank {self.rank}")
        return began, ended, ended

    def read_directly(self, path: Path) -> dict[str, np.ndarray]:
        bounce = mmap.mmap(-1, BLOCK)
        whole = np.empty(self.size, np.uint8)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        try:
            at = 0
            while at < self.size:
                count = os.readv(fd, [bounce])
                taken = min(count, self.size - at)
                whole[at : at + taken] = np.frombuffer(bounce, np.uint8, taken)
                at += taken
        finally:
            os.close(fd)
        parts, at = {}, 0
        for name, array in self.arrays.items():
            parts[name] = whole[at : at + array.nbytes].view(np.float32).reshape(array.shape)
            at += array.nbytes
        return parts


def work(rank: int, args: argparse.Namespace, address: str | None, orders: object) -> None:
    worker = Worker(rank, args, address)
    for contender in args.contenders:
        worker.prepare(contender)
    orders.send(worker.size)
    while True:
        order = orders.recv()
        if order is None:
            break
        action, *rest = order
        orders.send(getattr(worker, action)(*rest))
    if worker.checkpointer is not None:
        worker.checkpointer.close()


def everyone(pipes: list, order: tuple) -> list[tuple[float, float, float]]:
    for pipe in pipes:
        pipe.send(order)
    return [pipe.recv() for pipe in pipes]


def finish_tensorflow(directory: Path, processes: int, step: int) -> float:
    """Merge the parts as the sharded Saver does, make all of it durable; return when that was."""
    import tensorflow as tf

    parts = [f"{directory}/part-{rank}-of-{processes}" for rank in range(processes)]
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=parts, destination_prefix=f"{directory}/model.ckpt-{step}", delete_old_dirs=False
    )
    for path in [*directory.iterdir(), directory]:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    return time.monotonic()


def forget_cached(directory: Path) -> None:
    """Ask the kernel to drop the files' pages, so that a restore comes from the disk."""
    for path in directory.rglob("*"):
        try:
            fd = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue  # retention is at work beside us
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def one_round(contender: str, place: Path, pipes: list, args: argparse.Namespace, step: int) -> dict[str, float]:
    directory = place / "ckptd" / "bench" if contender == "ckptd" else place / contender
    if contender != "ckptd":
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        os.sync()
    times = everyone(pipes, ("save", contender, str(directory), step))
    began = min(t[0] for t in times)
    durable = max(t[2] for t in times)
    if contender == "tensorflow":
        durable = finish_tensorflow(directory, args.processes, step)
    forget_cached(directory)
    reads = everyone(pipes, ("restore", contender, str(directory), step))
    return {
        "stall_s": max(t[1] - t[0] for t in times),
        "durable_s": durable - began,
        "restore_s": max(t[1] for t in reads) - min(t[0] for t in reads),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="2GiB", help="of all processes together: 256MiB, 2GiB")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--tensors", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--dir", type=Path, help="where to write; default: a temporary directory")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

    with TemporaryDirectory(prefix="ckptd-bench-", dir=args.dir) as temporary:
        place = Path(temporary)
        daemon = None
        address = None
        if "ckptd" in args.contenders:
            from ckptd.demo.processes import Daemon

            (place / "ckptd").mkdir()
            daemon = Daemon(place / "ckptd", place / "daemon.log", place / "daemon.json")
            daemon.wait_until_ready()
            address = "grpc://{}:{}".format(*daemon.port())
        spawn = multiprocessing.get_context("spawn")
        pipes, processes = [], []
        try:
            for rank in range(args.processes):
                ours, theirs = spawn.Pipe()
                process = spawn.Process(target=work, args=(rank, args, address, theirs), daemon=True)
                process.start()
                theirs.close()
                pipes.append(ours)
                processes.append(process)
            size = sum(pipe.recv() for pipe in pipes)
            first = {c: one_round(c, place, pipes, args, 1) for c in args.contenders}
            rounds: dict[str, list[dict[str, float]]] = {c: [] for c in args.contenders}
            for number in range(args.rounds):
                turn = number % len(args.contenders)
                for contender in [*args.contenders[turn:], *args.contenders[:turn]]:
                    rounds[contender].append(one_round(contender, place, pipes, args, number + 2))
            for pipe in pipes:
                pipe.send(None)
            for process in processes:
                process.join(60)
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
            if daemon is not None:
                daemon.stop()
    report(args, size, first, rounds)


def report(args: argparse.Namespace, size: int, first: dict, rounds: dict) -> None:
    measures = ("stall_s", "durable_s", "restore_s")
    medians = {c: {m: statistics.median(r[m] for r in rounds[c]) for m in measures} for c in args.contenders}
    if args.json:
        print(
            json.dumps(
                {"size_bytes": size, "processes": args.processes, "first": first, "rounds": rounds, "medians": medians},
                indent=2,
            )
        )
        return
    print(
        f"{size / 2**30:.2f} GiB from {args.processes} processes, {args.tensors} tensors; "
        f"medians of {args.rounds} rounds (min-max), seconds\n"
    )
    print(f"{'':12}{'stall':>20}{'durable':>20}{'GB/s':>7}{'restore':>20}{'first durable':>15}")
    for contender in args.contenders:
        cells = []
        for measure in measures:
            values = [r[measure] for r in rounds[contender]]
            cells.append(f"{medians[contender][measure]:.2f} ({min(values):.2f}-{max(values):.2f})")
        rate = size / medians[contender]["durable_s"] / 1e9
        print(
            f"{contender:12}{cells[0]:>20}{cells[1]:>20}{rate:7.2f}{cells[2]:>20}{first[contender]['durable_s']:15.2f}"
        )
    if "ckptd" in medians:
        print()
        for other in args.contenders:
            if other != "ckptd":
                ratios = {m: medians["ckptd"][m] / medians[other][m] for m in measures}
                print(
                    f"ckptd against {other}: stall ×{ratios['stall_s']:.2f}, durable ×{ratios['durable_s']:.2f}, "
                    f"restore ×{ratios['restore_s']:.2f}   (below 1 is faster)"
                )


if __name__ == "__main__":
    main()
