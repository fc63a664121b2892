"""The same save and restore by ckptd, by other libraries, by the bare disk and by the bare memory, in turns.

    python benchmarks/peers.py --dir /mnt/disk                  # 2 GiB from 4 processes, 5 rounds, all installed
    python benchmarks/peers.py --small                          # 20,000 tensors of 4 KiB instead: 82 MB
    python benchmarks/peers.py --frameworks --size 1GiB         # each framework's asynchronous save, and ours for it
    python benchmarks/peers.py --size 256MiB --rounds 2 --contenders raw ckptd
    python benchmarks/peers.py --json figures.json --plot figures.svg --check

In every round each contender has its turn, in an order that moves on by one each round, so that a slow minute of the
machine hits all of them. A turn is: fresh processes, one per rank, make their arrays (random bits); a first save; some
more saves; restores. Nothing of one turn is there in the next.

- stall    until the save call has returned on the slowest rank, which may change its arrays then
- durable  from the first call until everything is on disk and synced; by the benchmark where the library does not sync
- first    the first save of the processes, durable; after what a program does before it (`Checkpointer.prepare`)
- cold     each rank reads its own part into fresh memory; no page of a file is cached, and no daemon remembers it. That
           memory is taken and given back once before: what a virtual machine has freed longer ago may be gone
- warm     the same at once after the save: from the page cache, or from the daemon's memory
- into     the same into arrays that exist, where the library can do that

`copy` is the limit of a stall: each process copies its part into memory that was used before, all at once. `raw` is the
limit of the disk. What is required of ckptd is a ratio to one of these, of the medians of one run: see verdicts.py.
benchmarks/requirements-peers.txt installs the others; those that are missing are named.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import reports
import verdicts
from contenders import ALL, EVERYONE, FRAMEWORKS
from contenders.base import Job, MissingError
from crews import Crew, CrewFailedError, crew_of, wait_until_quiet
from machine import describe
from measuring import forget_cached, parse_size

SMALL_TENSORS = 20_000
SMALL_BYTES = 4096
OURS_AND_LIMITS = ("copy", "raw", "ckptd", "ckptd staging", "ckptd stream")


def one_save(crew: Crew, step: int, pause_s: float) -> dict[str, float]:
    crew.everyone("before_save", step)
    wait_until_quiet(pause_s)
    cpu_before = crew.cpu_s()
    times = crew.everyone("save", step)
    began = min(each.began for each in times)
    written = max(each.durable for each in times)
    completed_s = crew.timed_completion(step)
    return {
        "stall_s": max(each.returned - each.began for each in times),
        "durable_s": written - began + completed_s,
        "cpu_s": crew.cpu_s() - cpu_before,
    }


def one_restore(crew: Crew, step: int, *, into: bool, compare: bool = False) -> float:
    times = crew.everyone("timed_restore", step, into, compare)
    return max(ended for _, ended in times) - min(began for began, _ in times)


def turn(name: str, place: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Let one contender do all of it once; return its figures, those of the saves after the first as a list."""
    measures = EVERYONE[name].measures
    directory = place / "files"
    directory.mkdir()
    job = Job(0, args.processes, args.size_bytes, args.tensors, args.small)
    with crew_of(EVERYONE[name], job, directory, args.daemon_option) as crew:
        crew.everyone("ready")
        before = crew.memory_bytes("VmRSS")
        wait_until_quiet(args.prepared_s if EVERYONE[name].needs_daemon else 0.0)
        found: dict[str, Any] = {"first": one_save(crew, 1, args.pause_s), "saves": [], "size_bytes": crew.size_bytes}
        last = 1
        for step in range(2, args.saves + 2):
            crew.forget(step - 1)
            found["saves"].append(one_save(crew, step, args.pause_s))
            last = step
        found["peak_bytes"] = crew.memory_bytes("VmHWM")
        found["extra_bytes"] = found["peak_bytes"] - before
        if name == "copy":
            found["two_threads_s"] = crew.one("with_threads")
        for measure, into in (("warm", False), ("warm_into", True)):
            if measure in measures:
                one_restore(crew, last, into=into)  # a rehearsal: imports, connections, arrays to restore into
                found[f"{measure}_s"] = one_restore(crew, last, into=into)
        if "cold" in measures:
            if crew.daemon is not None:
                crew.change_daemon()
            for measure, into in (("cold_s", False), ("cold_into_s", True)):
                if not into or EVERYONE[name].can_fill:
                    forget_cached(directory)
                    wait_until_quiet(args.pause_s)
                    crew.everyone("warm_memory")
                    found[measure] = one_restore(crew, last, into=into, compare=True)
    shutil.rmtree(directory)
    return found


def run(args: argparse.Namespace) -> dict[str, Any]:
    missing: dict[str, str] = {}
    taking_part = []
    for name in args.contenders:
        if args.small and not EVERYONE[name].does_small:
            missing[name] = "does not save whole tensors that one process owns"
            continue
        try:
            EVERYONE[name].check()
            taking_part.append(name)
        except MissingError as reason:
            missing[name] = str(reason)
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in taking_part}
    with TemporaryDirectory(prefix="ckptd-peers-", dir=args.dir) as temporary:
        machine = describe(Path(temporary))
        for number in range(args.rounds):
            at = number % len(taking_part)
            for name in [*taking_part[at:], *taking_part[:at]]:
                place = Path(temporary) / f"{number}-{name.replace(' ', '-')}"
                place.mkdir()
                try:
                    turns[name].append(turn(name, place, args))
                except CrewFailedError as failure:
                    if name in OURS_AND_LIMITS:
                        raise SystemExit(str(failure)) from failure
                    # What others can't do here is reported, and must not cost half an hour of all other figures.
                    missing[name] = str(failure).splitlines()[0]
                    print(failure, file=sys.stderr)
                shutil.rmtree(place)
                print(f"round {number + 1}: {name}", file=sys.stderr)
            taking_part = [name for name in taking_part if name not in missing]
    figures = {name: reports.gathered(turns[name]) for name in taking_part}
    return {
        "machine": machine,
        "job": {
            "size_bytes": turns[taking_part[0]][0]["size_bytes"],
            "processes": args.processes,
            "tensors": args.tensors,
            "small": args.small,
            "rounds": args.rounds,
            "saves_per_round": args.saves,
        },
        "contenders": figures,
        "missing": missing,
        "verdicts": verdicts.verdicts(figures, _required(args)),
    }


def _required(args: argparse.Namespace) -> Sequence[verdicts.Required]:
    if args.frameworks:
        return verdicts.FRAMEWORKS
    return verdicts.SMALL if args.small else verdicts.LARGE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="2GiB", help="of all processes together: 256MiB, 2GiB")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--tensors", type=int, help="default: 64, and 20000 with --small")
    parser.add_argument("--small", action="store_true", help="tensors of 4 KiB, each owned whole by one rank")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--saves", type=int, default=2, help="in each turn, after the first")
    parser.add_argument("--contenders", nargs="+", choices=EVERYONE, metavar="NAME", help="default: all the peers")
    parser.add_argument("--frameworks", action="store_true", help="instead: frameworks' own saves, and ours for them")
    parser.add_argument("--dir", type=Path, help="where to write; default: a temporary directory")
    parser.add_argument("--pause-s", type=float, default=0.5, help="of rest before each save and cold restore")
    parser.add_argument("--prepared-s", type=float, default=10.0, help="between joining a daemon and the first save")
    parser.add_argument(
        "--daemon-option", action="append", default=[], help="of ckptd serve; =, as in =--arena-bytes=4GiB"
    )
    parser.add_argument("--json", type=Path, nargs="?", const=Path("-"), help="write the figures; - or nothing: print")
    parser.add_argument("--plot", type=Path, help="draw them: an SVG file; needs matplotlib")
    parser.add_argument("--check", action="store_true", help="exit code 1 if a ratio that is required is not reached")
    args = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    args.contenders = args.contenders or list(FRAMEWORKS if args.frameworks else ALL)
    args.tensors = args.tensors or (SMALL_TENSORS if args.small else 64)
    args.size_bytes = args.tensors * SMALL_BYTES if args.small else parse_size(args.size)

    found = run(args)
    if args.plot is not None:
        reports.plot(found, args.plot)
    if args.json is not None and str(args.json) == "-":
        print(json.dumps(found, indent=2))
    else:
        if args.json is not None:
            args.json.write_text(json.dumps(found, indent=2) + "\n")
        print(f"{reports.page(found)}\n\n{reports.required(found)}")
    failed = [each["what"] for each in found["verdicts"] if each["reached"] is False]
    if args.check and failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
