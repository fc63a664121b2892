"""What a save that is being written costs the training beside it: the time of its steps, with and without.

    python benchmarks/interference.py --dir /mnt/disk              # 2 GiB; one training process, then one on every core
    python benchmarks/interference.py --size 512MiB --daemon-option=--write-bytes-per-s=100000000
    python benchmarks/interference.py --processes 1 --cycles 20 --check

Three trainings are measured. `demo` is the step of `ckptd demo`, of its network 8,192 units wide. `small` is the same
512 units wide: matrix products that fit in the caches, and steps of about a millisecond, which show every interruption.
`memory` streams over an array several times larger than the last cache, so that it feels every byte that others move.
Windows take turns: in one nothing is saved; in the next a save is begun, and what counts are the steps from its return
until it is durable. The call itself, the stall, is no step, and is reported apart. As the machine has a noise of its
own, so has a p99: `noise` is what the same comparison finds between the odd and the even quiet windows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from contenders.base import Job
from contenders.ours import Ckptd
from crews import crew_of, wait_until_quiet
from machine import describe, in_words
from measuring import last_cache_bytes, markdown, parse_size

from ckptd.demo import network

AIM = 0.03  # growth of the p99
_HIDDEN = {"demo": 8192, "small": 512}  # units
_BATCH = 240
_CACHES = 4  # the streamed array is so many times as large as the last cache


class Training(Ckptd):
    """A rank that trains, and saves its arrays meanwhile."""

    def begin(self, kind: str, stream_bytes: int) -> None:
        random = np.random.default_rng(self.job.rank)
        if kind == "memory":
            self._streamed = random.standard_normal(stream_bytes // 4, np.float32)
            self._one_step = self._stream
            return
        self._images = random.random((_BATCH, network.NUM_PIXELS), np.float32)
        self._labels = random.integers(0, network.NUM_CLASSES, _BATCH)
        self._network = network.initial_values(_HIDDEN[kind], 7)
        self._one_step = self._train

    def _train(self) -> None:
        state = self._network
        found = network.gradients(self._images, self._labels, state[network.PARTITIONED], state, _BATCH)
        network.update(state, network.PARTITIONED, found.partitioned)
        for name in network.REPLICATED:
            network.update(state, name, found.replicated[name])

    def _stream(self) -> None:
        np.multiply(self._streamed, np.float32(1.000001), out=self._streamed)

    def quiet(self, seconds: float) -> list[float]:
        steps = []
        until = time.perf_counter() + seconds
        while (began := time.perf_counter()) < until:
            self._one_step()
            steps.append(time.perf_counter() - began)
        return steps

    def saving(self, step: int) -> tuple[float, float, list[float]]:
        """Save and train on; return the stall, when it was durable, and the steps until then."""
        named = self._named(self.arrays)
        called = time.perf_counter()
        pending = self._checkpointer.save(step, named)
        stall_s = time.perf_counter() - called
        durable: list[float] = []
        pending.add_done_callback(lambda _: durable.append(time.perf_counter()))
        steps = []
        while not pending.done():
            began = time.perf_counter()
            self._one_step()
            steps.append(time.perf_counter() - began)
        pending.result()
        return stall_s, durable[0] - called, steps


def percentile(values: list[float], share: float) -> float:
    return float(np.quantile(values, share)) if values else float("nan")


def measure(kind: str, processes: int, place: Path, args: argparse.Namespace) -> dict[str, Any]:
    directory = place / f"{kind}-{processes}"
    (directory / "files").mkdir(parents=True)
    job = Job(0, processes, parse_size(args.size), args.tensors)
    with crew_of(Training, job, directory / "files", args.daemon_option) as crew:
        crew.everyone("ready")
        crew.everyone("begin", kind, args.stream_bytes)
        rehearsal = crew.everyone("saving", 1)  # whatever a first save has to make
        wait_until_quiet(0.5)
        quiet: list[list[float]] = []
        saving: list[float] = []
        stalls, durables = [], []
        window_s = args.window_s or max(durable for _, durable, _ in rehearsal)
        for cycle in range(args.cycles):
            windows = crew.everyone("quiet", window_s)
            quiet.append([step for window in windows for step in window])
            answers = crew.everyone("saving", cycle + 2)
            saving += [step for *_, steps in answers for step in steps]
            stalls.append(max(stall for stall, *_ in answers))
            durables.append(max(durable for _, durable, _ in answers))
            # The quiet windows are as long as the saves are, or one would see more of the machine's variation.
            window_s = args.window_s or durables[-1]
    flat = [step for window in quiet for step in window]
    odd, even = ([step for window in quiet[parity::2] for step in window] for parity in (0, 1))
    p99 = percentile(flat, 0.99)
    return {
        "training": kind,
        "processes": processes,
        "quiet_steps": len(flat),
        "saving_steps": len(saving),
        "quiet_p50_s": percentile(flat, 0.5),
        "saving_p50_s": percentile(saving, 0.5),
        "quiet_p99_s": p99,
        "saving_p99_s": percentile(saving, 0.99),
        "p50_growth": percentile(saving, 0.5) / percentile(flat, 0.5) - 1,
        "p99_growth": percentile(saving, 0.99) / p99 - 1,
        "p99_noise": abs(percentile(odd, 0.99) - percentile(even, 0.99)) / p99 if odd and even else 0.0,
        "stall_s": statistics.median(stalls),
        "durable_s": statistics.median(durables),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--size", default="2GiB", help="of the state that is saved, all processes together")
    parser.add_argument("--tensors", type=int, default=64)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, cores], help=f"default: 1 {cores}")
    parser.add_argument("--trainings", nargs="+", choices=(*_HIDDEN, "memory"), default=[*_HIDDEN, "memory"])
    parser.add_argument("--cycles", type=int, default=10, help="quiet windows, and as many saves")
    parser.add_argument(
        "--window-s", type=float, default=0.0, help="of a quiet window; default: as long as the last save"
    )
    parser.add_argument(
        "--stream", help="size of the array that `memory` streams over; default: 4 times the last cache"
    )
    parser.add_argument("--daemon-option", action="append", default=[], help="of ckptd serve: =--writer-nice=19")
    parser.add_argument("--dir", type=Path, help="where to write; default: a temporary directory")
    parser.add_argument(
        "--check", action="store_true", help="exit code 1 if a p99 grows by more than 3 % and the noise"
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    args.stream_bytes = parse_size(args.stream) if args.stream else _CACHES * last_cache_bytes()

    with TemporaryDirectory(prefix="ckptd-interference-", dir=args.dir) as temporary:
        place = Path(temporary)
        machine = describe(place)
        rows = [measure(kind, count, place, args) for count in dict.fromkeys(args.processes) for kind in args.trainings]
    for row in rows:
        row["reached"] = row["p99_growth"] <= max(AIM, row["p99_noise"])
    if args.json:
        found = {"machine": machine, "size_bytes": parse_size(args.size), "daemon_options": args.daemon_option}
        print(json.dumps(found | {"aim": AIM, "rows": rows}, indent=2))
    else:
        print(f"{args.size} saved beside the training, {args.cycles} times; {in_words(machine)}")
        print(f"options of the daemon: {' '.join(args.daemon_option) or 'none'}\n")
        print(markdown(HEADS, [cells(row) for row in rows]))
    if args.check and not all(row["reached"] for row in rows):
        raise SystemExit(1)


HEADS = (
    "training",
    "processes",
    "steps quiet / saving",
    "p50 ms quiet / saving",
    "p99 ms quiet / saving",
    "p50 grows",
    "p99 grows",
    "noise of p99",
    "stall ms",
    "durable s",
)


def cells(row: dict[str, Any]) -> list[str]:
    return [
        row["training"],
        str(row["processes"]),
        f"{row['quiet_steps']} / {row['saving_steps']}",
        f"{row['quiet_p50_s'] * 1e3:.2f} / {row['saving_p50_s'] * 1e3:.2f}",
        f"{row['quiet_p99_s'] * 1e3:.2f} / {row['saving_p99_s'] * 1e3:.2f}",
        f"{row['p50_growth']:+.1%}",
        f"{row['p99_growth']:+.1%}",
        f"±{row['p99_noise']:.1%}",
        f"{row['stall_s'] * 1e3:.0f}",
        f"{row['durable_s']:.2f}",
    ]


if __name__ == "__main__":
    main()
