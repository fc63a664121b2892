"""How long it takes from a checkpoint's publication until all watchers have received it.

    python benchmarks/watch.py                               # 1,000 watchers of a daemon, 20 of a directory
    python benchmarks/watch.py --watchers 1 --publishes 100  # what one watcher sees
    python benchmarks/watch.py --json

A daemon of its own serves on loopback; a trainer saves a small tensor again and again, each time after all watchers
have heard of the last one. Watchers of the daemon are `WatchService` streams as `Checkpointer.watch` opens them, spread
over a few processes, because 1,000 Python processes would measure the memory of the host. Watchers of the directory are
`ckptd.follow`, in one process. The clock starts when the state file is in place (its change time, which the kernel
takes at the rename, to 4 ms), before its directory is synced, so that the sync is part of what is measured. It ends
when the watcher has the `Checkpoint` in its hands. Everything shares this host's cores: 1,000 watchers on 1,000 hosts
would receive it sooner.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from grpc import aio

import ckptd
from ckptd.demo.processes import Daemon
from ckptd.wire import addresses, convert, methods, versions
from ckptd.wire.channels import COMMON_OPTIONS
from ckptd.wire.v1 import watch_pb2

RUN = "bench/watch"
STREAMS_PER_CONNECTION = 25
BOUND_S = 120.0


def watch_daemon(address: str, watchers: int, pipe: Any) -> None:
    asyncio.run(_watch_daemon(address, watchers, pipe))


async def _watch_daemon(address: str, watchers: int, pipe: Any) -> None:
    heard: dict[int, list[float]] = {}
    peer = versions.this_peer(versions.new_incarnation())
    # Hosts of their own would have connections of their own; without this one process shares a single one.
    options = [*COMMON_OPTIONS, ("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    target = addresses.parse(address).target
    channels = [aio.insecure_channel(target, options) for _ in range(-(-watchers // STREAMS_PER_CONNECTION))]

    async def follow(number: int) -> None:
        channel = channels[number % len(channels)]
        call = channel.unary_stream(
            methods.WATCH["Watch"].path,
            request_serializer=watch_pb2.WatchRequest.SerializeToString,
            response_deserializer=watch_pb2.WatchEvent.FromString,
        )(watch_pb2.WatchRequest(peer=peer, run=RUN))
        async for event in call:
            checkpoint = convert.checkpoint_from_wire(event.checkpoint)
            times = heard.setdefault(checkpoint.step, [])
            times.append(time.time())
            if len(times) == watchers:
                pipe.send((checkpoint.step, heard.pop(checkpoint.step)))

    await asyncio.gather(*(follow(number) for number in range(watchers)))


def watch_directory(directory: str, watchers: int, pipe: Any) -> None:
    lock = threading.Lock()
    heard: dict[int, list[float]] = {}

    def follow() -> None:
        for checkpoint in ckptd.follow(directory):
            now = time.time()
            with lock:
                times = heard.setdefault(checkpoint.step, [])
                times.append(now)
                if len(times) == watchers:
                    pipe.send((checkpoint.step, heard.pop(checkpoint.step)))

    threads = [threading.Thread(target=follow) for _ in range(watchers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def measure(
    ckpt: ckptd.Checkpointer, state_file: Path, begin: Any, crews: list[tuple[Any, ...]], publishes: int, step: int
) -> tuple[list[float], list[float]]:
    """Return the latencies of every watcher and publication, and of the last watcher of each publication."""
    spawn = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    every, last = [], []
    try:
        for arguments in crews:
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=begin, args=(*arguments, theirs), daemon=True)
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        for number in range(publishes + 1):
            if number:
                step += 1
                ckpt.save(step, {"w": np.full(1000, step, np.float32)}).result()
            heard = []
            for pipe in pipes:
                if not pipe.poll(BOUND_S):
                    raise SystemExit(f"a watcher has not heard of step {step} within {BOUND_S:g} s")
                told_step, times = pipe.recv()
                assert told_step == step, (told_step, step)
                heard += times
            if number:  # the first is what was there when they came
                published = state_file.stat().st_ctime
                latencies = [max(0.0, at - published) for at in heard]
                every += latencies
                last.append(max(latencies))
    finally:
        for process in processes:
            process.kill()
            process.join()
    return every, last


def summary(watchers: int, every: list[float], last: list[float]) -> dict[str, float]:
    ordered = sorted(every)
    return {
        "watchers": watchers,
        "samples": len(ordered),
        "p50_ms": 1e3 * statistics.median(ordered),
        "p99_ms": 1e3 * ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
        "max_ms": 1e3 * ordered[-1],
        "last_watcher_p50_ms": 1e3 * statistics.median(last),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--watchers", type=int, default=1000, help="of the daemon")
    parser.add_argument("--processes", type=int, default=4, help="that they are spread over")
    parser.add_argument("--directory-watchers", type=int, default=20)
    parser.add_argument("--publishes", type=int, default=50)
    parser.add_argument("--dir", type=Path, help="where to write; default: a temporary directory")
    parser.add_argument("--limit-ms", type=float, help="exit code 1 if a 99th percentile is above")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    with TemporaryDirectory(prefix="ckptd-watch-", dir=args.dir) as temporary:
        place = Path(temporary)
        (place / "root").mkdir()
        daemon = Daemon(place / "root", place / "daemon.log", place / "daemon.json")
        try:
            daemon.wait_until_ready()
            address = "grpc://{}:{}".format(*daemon.port())
            directory = place / "root" / RUN
            processes = max(1, min(args.processes, args.watchers))
            shares = [len(range(number, args.watchers, processes)) for number in range(processes)]
            with ckptd.Checkpointer(address, run=RUN, rank=0, world_size=1, max_to_keep=2) as ckpt:
                ckpt.save(0, {"w": np.zeros(1000, np.float32)}).result()
                results = {}
                crews: list[tuple[Any, ...]] = [(address, share) for share in shares]
                state_file = directory / "checkpoint"
                found = measure(ckpt, state_file, watch_daemon, crews, args.publishes, 0)
                results["daemon"] = summary(args.watchers, *found)
                crews = [(str(directory), args.directory_watchers)]
                found = measure(ckpt, state_file, watch_directory, crews, args.publishes, args.publishes)
                results["directory"] = summary(args.directory_watchers, *found)
        finally:
            daemon.stop()
    if args.json:
        print(json.dumps({"cores": os.cpu_count(), "publishes": args.publishes, **results}))
    else:
        print(f"{args.publishes} publications, {os.cpu_count()} cores; milliseconds from published to heard")
        print(f"{'':12}{'watchers':>10}{'p50':>10}{'p99':>10}{'max':>10}")
        for name, found in results.items():
            numbers = "".join(f"{found[key]:>10.1f}" for key in ("p50_ms", "p99_ms", "max_ms"))
            print(f"{name:12}{found['watchers']:>10}{numbers}")
    worst = max(found["p99_ms"] for found in results.values())
    raise SystemExit(1 if args.limit_ms is not None and worst > args.limit_ms else 0)


if __name__ == "__main__":
    main()
