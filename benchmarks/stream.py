"""Saves and restores over the gRPC stream, beside bare gRPC that carries the same bytes and does nothing with them.

    python benchmarks/stream.py                          # 1 GiB from 1 and from 4 processes, 5 rounds
    python benchmarks/stream.py --size 256MiB --clients 4 --rounds 3 --limit 0.85

What takes part, in turns, so that a slow minute of the machine hits all of them:

- bare aio, bare threads   the same chunks as raw bytes, over as many streams, to a server that drops them: the fastest
                           that gRPC is here, and what the others are compared with
- ckptd, nothing kept      Checkpointer.save to a daemon whose store drops the shards: all of ckptd but the disk
- ckptd, 2 more processes  the same by two stream processes beside the daemon; only on request
- ckptd, disk              the same to a daemon on a directory, durable
- read: ...                the way back: Checkpointer.restore(into=...) through the daemon, whose store is its memory

A save counts from its call to its result, with the snapshot, the checksums of both ends and the commit; the last column
leaves out the snapshot, which is a copy of memory and no part of the stream. Rates are medians; processor time is that
of the clients together and of the server with its stream processes, the kernel's included.
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

import grpc
import numpy as np
import stream_servers as far
from measuring import cpu_of, family_of, forget_peak, markdown, medians, memory_of, parse_size

from ckptd.wire.chunks import CHUNK_BYTES

BARE = ("bare aio", "bare threads")
OURS = ("ckptd, nothing kept", "ckptd, 2 more processes", "ckptd, disk")
BARE_READ = ("read: bare aio", "read: bare threads")
OURS_READ = ("read: ckptd",)


class Client:
    """One process's bytes, and what it does with them for each contender."""

    def __init__(self, rank: int, args: argparse.Namespace, clients: int, addresses: dict[str, str]) -> None:
        self.rank, self.args, self.addresses = rank, args, addresses
        each = parse_size(args.size) // clients // args.tensors // 4 * 4
        noise = np.random.default_rng(rank).integers(0, 1 << 32, (args.tensors, each // 4), np.uint32)
        self.arrays = {f"tensor/{rank}/{number}": row for number, row in enumerate(noise)}
        self.restored = {name: np.zeros_like(row) for name, row in self.arrays.items()}
        self.flat = memoryview(noise.reshape(-1).view(np.uint8))
        self.into = np.zeros(len(self.flat), np.uint8)
        self.channels: dict[str, grpc.Channel] = {}
        self.checkpointers: dict[str, Any] = {}
        for contender in addresses:
            self.prepare(contender, clients)

    def prepare(self, contender: str, clients: int) -> None:
        import ckptd

        address = self.addresses[contender]
        if "bare" in contender:
            self.channels[contender] = grpc.insecure_channel(address, options=far.OPTIONS)
        else:
            self.checkpointers[contender] = ckptd.Checkpointer(
                address, run="bench", rank=self.rank, world_size=clients, max_to_keep=1
            )

    def measured(self, contender: str, step: int) -> tuple[float, float, float, float]:
        """Return when it began, when the arrays were captured, when it ended, and the processor time it took."""
        cpu, began = cpu_of(), time.monotonic()
        captured = began
        if contender in BARE:
            self.together(lambda part: self.bare_write(contender, part))
        elif contender in OURS:
            pending = self.checkpointers[contender].save(step, self.arrays)
            captured = time.monotonic()
            pending.result()
        elif contender in BARE_READ:
            self.together(lambda part: self.bare_read(contender, part))
        else:
            self.checkpointers[contender].restore(step, names=list(self.arrays), into=self.restored)
        return began, captured, time.monotonic(), cpu_of() - cpu

    def first(self, contender: str) -> None:
        if contender in OURS_READ:
            self.checkpointers[contender].save(1, self.arrays).result()
            self.measured(contender, 1)
            for name, array in self.arrays.items():
                if not np.array_equal(self.restored[name], array):
                    raise SystemExit(f"{name} came back with other values")
        else:
            self.measured(contender, 1)

    def together(self, work: Any) -> None:
        size, streams = len(self.flat), self.args.streams
        cuts = [size * number // streams for number in range(streams + 1)]
        parts = [slice(cuts[number], cuts[number + 1]) for number in range(streams)]
        threads = [threading.Thread(target=work, args=(part,)) for part in parts]
        for thread in threads[1:]:
            thread.start()
        threads[0].run()
        for thread in threads[1:]:
            thread.join()

    def bare_write(self, contender: str, part: slice) -> None:
        data = self.flat[part]
        size = self.args.chunk
        chunks = (bytes(data[at : at + size]) for at in range(0, len(data), size))
        taken = self.channels[contender].stream_unary(far.WRITE)(chunks)
        assert int(taken) == len(data)

    def bare_read(self, contender: str, part: slice) -> None:
        into = memoryview(self.into)[part]
        at, size = 0, self.args.chunk
        for block in self.channels[contender].unary_stream(far.READ)(b"%d %d" % (-(-len(into) // size), size)):
            taken = min(len(block), len(into) - at)
            into[at : at + taken] = memoryview(block)[:taken]
            at += taken

    def close(self) -> None:
        for channel in self.channels.values():
            channel.close()
        for checkpointer in self.checkpointers.values():
            checkpointer.close()


def work(rank: int, args: argparse.Namespace, clients: int, addresses: dict[str, str], orders: Any) -> None:
    client = Client(rank, args, clients, addresses)
    orders.send(len(client.flat))
    while (order := orders.recv()) is not None:
        action, *rest = order
        orders.send(getattr(client, action)(*rest))
    client.close()


def everyone(pipes: list[Any], order: tuple[Any, ...]) -> list[Any]:
    for pipe in pipes:
        pipe.send(order)
    return [pipe.recv() for pipe in pipes]


def one_round(contender: str, pipes: list[Any], server: Any, size: int, step: int) -> dict[str, float]:
    family = family_of(server.pid)
    for pid in family:
        forget_peak(pid)
    before = sum(map(cpu_of, family))
    times = everyone(pipes, ("measured", contender, step))
    end = max(t[2] for t in times)
    return {
        "rate": size / 1e9 / (end - min(t[0] for t in times)),
        "stream_rate": size / 1e9 / (end - min(t[1] for t in times)),
        "client_cpu": sum(t[3] for t in times) / (size / 1e9),
        "server_cpu": (sum(map(cpu_of, family)) - before) / (size / 1e9),
        "server_bytes": sum(memory_of(pid)["VmHWM"] for pid in family),
    }


def measure(clients: int, args: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Run all contenders with so many client processes."""
    place.mkdir()
    starts = {
        "bare aio": lambda: far.Far(far.serve_async),
        "bare threads": lambda: far.Far(far.serve_threads),
        "ckptd, nothing kept": lambda: far.Far(far.serve_forgetful),
        "ckptd, 2 more processes": lambda: far.Far(far.serve_by_processes),
        "ckptd, disk": lambda: far.FarDaemon(place),
        "read: ckptd": lambda: far.Far(far.serve_memory),
    }
    servers: dict[str, Any] = {}
    spawn = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    try:
        for contender in args.contenders:
            same = contender.removeprefix("read: ") if "bare" in contender else contender
            if same not in servers:
                servers[same] = starts[same]()
            servers[contender] = servers[same]
        where = {contender: servers[contender].address for contender in args.contenders}
        for rank in range(clients):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=work, args=(rank, args, clients, where, theirs), daemon=True)
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        size = sum(pipe.recv() for pipe in pipes)
        for contender in args.contenders:
            everyone(pipes, ("first", contender))
        rounds: dict[str, list[dict[str, float]]] = {contender: [] for contender in args.contenders}
        for number in range(args.rounds):
            turn = number % len(args.contenders)
            for contender in [*args.contenders[turn:], *args.contenders[:turn]]:
                step = 1 if contender in OURS_READ else number + 2
                rounds[contender].append(one_round(contender, pipes, servers[contender], size, step))
        for pipe in pipes:
            pipe.send(None)
        for process in processes:
            process.join(60)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
        for server in {id(server): server for server in servers.values()}.values():
            server.stop()
    found = {contender: medians(rounds[contender]) for contender in args.contenders}
    for ours, bare in ((OURS, BARE), (OURS_READ, BARE_READ)):
        best = max((found[contender]["rate"] for contender in bare if contender in found), default=0.0)
        for contender in ours:
            if contender in found and best:
                found[contender]["ratio"] = found[contender]["rate"] / best
                found[contender]["stream_ratio"] = found[contender]["stream_rate"] / best
    return {"clients": clients, "size_bytes": size, "medians": found, "rounds": rounds}


def main() -> None:
    os.environ["CKPTD_TRANSPORT"] = "stream"  # as from another host, also for the processes that are started
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="1GiB", help="of all clients together")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4], help="processes that send")
    parser.add_argument("--streams", type=int, default=1, help="of each bare client; one is the fastest")
    parser.add_argument("--chunk", type=parse_size, default=CHUNK_BYTES, help="of the bare clients")
    parser.add_argument("--tensors", type=int, default=8, help="of each client")
    parser.add_argument("--rounds", type=int, default=5)
    everybody = [*BARE, *OURS, *BARE_READ, *OURS_READ]
    parser.add_argument(
        "--contenders", nargs="+", choices=everybody, default=[one for one in everybody if "more" not in one]
    )
    parser.add_argument("--dir", type=Path, help="where the daemon writes; default: a temporary directory")
    parser.add_argument("--limit", type=float, help="exit code 1 if ckptd reaches less of bare gRPC, disk left out")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    with TemporaryDirectory(prefix="ckptd-stream-", dir=args.dir) as temporary:
        found = [measure(clients, args, Path(temporary) / str(clients)) for clients in args.clients]
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        for one in found:
            report(one, args)
    ratios = [
        one["medians"][contender]["ratio"]
        for one in found
        for contender in (OURS[0], *OURS_READ)
        if "ratio" in one["medians"].get(contender, {})
    ]
    raise SystemExit(args.limit is not None and min(ratios, default=0.0) < args.limit)


def report(one: dict[str, Any], args: argparse.Namespace) -> None:
    print(
        f"{one['size_bytes'] / 2**30:.2f} GiB, clients: {one['clients']}, processors: {os.cpu_count()}; "
        f"medians of {args.rounds} rounds (min-max)\n"
    )
    rows = []
    for contender, median in one["medians"].items():
        rates = [each["rate"] for each in one["rounds"][contender]]
        rows.append(
            (
                contender,
                f"{median['rate']:.2f} ({min(rates):.2f}-{max(rates):.2f})",
                f"{median['client_cpu']:.2f}",
                f"{median['server_cpu']:.2f}",
                f"{median['server_bytes'] / 2**20:.0f}",
                f"{median['ratio']:.2f}" if "ratio" in median else "",
                f"{median['stream_ratio']:.2f}" if contender in OURS and "ratio" in median else "",
            )
        )
    heads = ("", "GB/s", "clients CPU s/GB", "server CPU s/GB", "server MiB", "of bare", "from the snapshot on")
    print(markdown(heads, rows), flush=True)
    print()


if __name__ == "__main__":
    main()
