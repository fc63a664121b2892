"""What moves bytes to and from an S3 server the fastest, and for how much processor time.

    python benchmarks/object_clients.py --start-server       # 4 objects of 256 MiB, 5 rounds, the tests' own server
    python benchmarks/object_clients.py --size 64MiB --rounds 3 --clients ckptd obstore

Each client uploads the objects all at once in parts of 16 MiB, and reads them back in ranges of 16 MiB, 8 requests at
a time. Each has a process of its own, and they take turns, so that a slow minute of the machine hits all of them. A
first round warms up. `ckptd` and `ckptd by s3fs` are the writers and readers that checkpoints go through, and so they
send a CRC-32C with every part; the others send what they send unless told otherwise.

The columns: medians of the rounds; client CPU, the kernel's work for it included, in seconds for a GiB; the peak of
the process's memory, in which the data themselves lie: all objects when reading, one that serves for all when
uploading.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time

import numpy as np
from bucket_clients import CLIENTS, PART_BYTES, Range, add_arguments, place
from measuring import cpu_of, forget_peak, markdown, medians, memory_of, parse_size


def work(name: str, bucket: str, prefix: str, count: int, size: int, orders: object) -> None:
    client = CLIENTS[name](bucket)
    data = memoryview(np.random.default_rng(0).integers(0, 256, size, np.uint8))
    orders.send("ready")
    while (order := orders.recv()) is not None:
        action, number = order
        keys = [f"{prefix}/{name.replace(' ', '-')}/{number}-{each}" for each in range(count)]
        ranges = [Range(key, at, min(PART_BYTES, size - at)) for at in range(0, size, PART_BYTES) for key in keys]
        forget_peak()
        cpu, began = cpu_of(), time.monotonic()
        found = []
        if action == "upload":
            client.upload(dict.fromkeys(keys, data))
        else:
            found = client.read(ranges)
        seconds, cpu = time.monotonic() - began, cpu_of() - cpu
        peak = memory_of()["VmHWM"]
        for wanted, got in zip(ranges, found, strict=False):
            if got != data[wanted.start : wanted.start + wanted.size]:
                raise SystemExit(f"{name} read other bytes than it wrote")
        if action == "read":
            delete(bucket, keys)
        del found
        orders.send((seconds, cpu, peak))


def delete(bucket: str, keys: list[str]) -> None:
    from ckptd.storage.locations import open_store

    open_store(f"s3://{bucket}").delete(keys)


def one_round(orders: object, number: int, total: int) -> dict[str, float]:
    found = {}
    for action in ("upload", "read"):
        orders.send((action, number))
        seconds, cpu, peak = orders.recv()
        found |= {
            f"{action}_s": seconds,
            f"{action}_mib_s": total / 2**20 / seconds,
            f"{action}_cpu_s_per_gib": cpu / (total / 2**30),
            f"{action}_peak_mib": peak / 2**20,
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=4)
    parser.add_argument("--size", default="256MiB", help="of each object")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", nargs="+", choices=CLIENTS, default=list(CLIENTS))
    parser.add_argument("--json", action="store_true")
    add_arguments(parser)
    args = parser.parse_args()
    size = parse_size(args.size)

    with place(args) as (bucket, prefix):
        spawn = multiprocessing.get_context("spawn")
        pipes, processes = {}, []
        try:
            for name in args.clients:
                pipes[name], theirs = spawn.Pipe()
                process = spawn.Process(target=work, args=(name, bucket, prefix, args.objects, size, theirs))
                process.start()
                theirs.close()
                processes.append(process)
                pipes[name].recv()
            rounds: dict[str, list[dict[str, float]]] = {name: [] for name in args.clients}
            for number in range(-1, args.rounds):
                turn = number % len(args.clients)
                for name in [*args.clients[turn:], *args.clients[:turn]]:
                    found = one_round(pipes[name], number, args.objects * size)
                    if number >= 0:
                        rounds[name].append(found)
            for pipe in pipes.values():
                pipe.send(None)
            for process in processes:
                process.join(60)
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
    report(args, args.objects * size, rounds)


def report(args: argparse.Namespace, total: int, rounds: dict[str, list[dict[str, float]]]) -> None:
    middle = {name: medians(found) for name, found in rounds.items()}
    for action in ("upload", "read"):
        best = min(found[f"{action}_s"] for found in middle.values())
        for found in middle.values():
            found[f"{action}_of_best"] = best / found[f"{action}_s"]
    if args.json:
        print(json.dumps({"size_bytes": total, "rounds": rounds, "medians": middle}, indent=2))
        return
    print(f"{args.objects} objects, {total / 2**30:.2f} GiB together; medians of {args.rounds} rounds\n")
    columns = ("s", "mib_s", "cpu_s_per_gib", "peak_mib", "of_best")
    digits = (2, 0, 2, 0, 2)
    for action in ("upload", "read"):
        rows = [
            [name, *(f"{found[f'{action}_{column}']:.{n}f}" for column, n in zip(columns, digits, strict=True))]
            for name, found in middle.items()
        ]
        print(markdown([action, "s", "MiB/s", "CPU s/GiB", "peak MiB", "of the best"], rows), end="\n\n")


if __name__ == "__main__":
    main()
