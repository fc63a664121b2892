"""What metrics cost: the daemon's processor time of a save with and without `--http`, and a scrape of many runs.

    python benchmarks/metrics_cost.py                        # 8 rounds of 200 saves each way, a scrape of 200 runs
    python benchmarks/metrics_cost.py --rounds 20 --size 4MiB
    python benchmarks/metrics_cost.py --json

Two daemons of their own serve on loopback, one with `--http`, one without. The same process saves to them in turns, so
that what else the machine does meets both alike. Compared are medians of the rounds; the spread of the rounds without
says how small a difference can be seen. The figures of many runs are made and rendered in this process, as a daemon
does it in a thread of its own, in processor seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from measuring import cpu_of, markdown, parse_size

import ckptd
from ckptd.demo.processes import Daemon
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.identity import SaveRef
from ckptd.engine.journal import JournalEntry, Measured
from ckptd.engine.saves.session import Phase
from ckptd.engine.saves.views import RunView, SaveView
from ckptd.metrics.exposition import render
from ckptd.metrics.figures import Figures
from ckptd.metrics.seen import SeenFigures
from ckptd.metrics.told import ToldFigures

FORMS = {"plain": "", "OpenMetrics": "application/openmetrics-text; version=1.0.0"}
WAYS: dict[str, Sequence[str]] = {"without": (), "with": ("--http", "127.0.0.1:0")}
_PHASES = dict.fromkeys(("declare", "plan", "move", "seal", "commit", "publish"), 0.1)
_TIMEOUT_S = 120.0


def saves(place: Path, rounds: int, num_saves: int, size_bytes: int) -> dict[str, list[float]]:
    """Return the daemon's processor seconds of a save, for each way and round; the first round is left out."""
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    daemons = {way: Daemon(place / way, place / f"{way}.log", place / f"{way}.json", WAYS[way]) for way in WAYS}
    try:
        for daemon in daemons.values():
            daemon.wait_until_ready()
        clients = {
            way: ckptd.Checkpointer(daemon.address, run="bench/metrics", rank=0, world_size=1, max_to_keep=2)
            for way, daemon in daemons.items()
        }
        values = {"w": np.zeros(size_bytes // 4, np.float32)}
        for number in range(rounds + 1):
            order = list(WAYS) if number % 2 else list(reversed(WAYS))
            for way in order:
                before = cpu_of(daemons[way].pid)
                for each in range(num_saves):
                    clients[way].save(number * num_saves + each, values).result(_TIMEOUT_S)
                if number:
                    found[way].append((cpu_of(daemons[way].pid) - before) / num_saves)
        for client in clients.values():
            client.close()
    finally:
        for daemon in daemons.values():
            daemon.stop()
    return found


def scrape(num_runs: int, repeats: int) -> dict[str, Any]:
    """Return how many series of our own so many runs have, and how long rendering them takes, in processor seconds."""
    latest = Checkpoint("/r/m-6", 6, 100, 1, 990.0, verified_at=995.0)
    save = SaveView(SaveRef("r", 1, 7), Phase.FILLING, 0, 0, 12.0, (), (1, 3), frozenset())
    views = [RunView(f"runs/{n}", 1, 2, (0, 1), (save,), latest, 1, "", checkpoints=(latest,)) for n in range(num_runs)]
    figures = Figures(version="1", grpc="1", role="whole", store="file")
    figures.registry.register(SeenFigures(lambda: views, figures.runs))
    told = ToldFigures(figures)
    for view in views:
        measured = Measured(500, 2.0, _PHASES, 0.4, {"shm": 400})
        entry = JournalEntry("save", "committed", view.run, details={"save_id": "s"}, measured=lambda m=measured: m)
        told.ended(entry)
    found: dict[str, Any] = {}
    for form, accept in FORMS.items():
        spent = []
        for _ in range(repeats):
            before = time.thread_time()
            text, _ = render(figures.registry, accept, lambda _run: True, sees_all=True)
            spent.append(time.thread_time() - before)
        found[form] = {"seconds": statistics.median(spent), "bytes": len(text)}
        if not accept:
            found["series"] = sum(line.startswith(b"ckptd_") for line in text.splitlines())
    return found


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--saves", type=int, default=200, help="of a round, each way")
    parser.add_argument("--size", default="400KiB", help="of a save")
    parser.add_argument("--runs", type=int, default=200, help="that a scrape shows")
    parser.add_argument("--dir", default=None, help="where the daemons' directories are made")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with TemporaryDirectory(dir=args.dir) as temporary:
        spent = saves(Path(temporary), args.rounds, args.saves, parse_size(args.size))
    medians = {way: statistics.median(each) for way, each in spent.items()}
    pairs = [with_ / without - 1 for with_, without in zip(spent["with"], spent["without"], strict=True)]
    result = {
        "save_cpu_s": spent,
        "medians": medians,
        "more": medians["with"] / medians["without"] - 1,
        "more_by_pairs": statistics.median(pairs),
        "scrapes": {str(number): scrape(number, 9) for number in (1, args.runs)},
    }
    if args.json:
        print(json.dumps(result))
        return
    rows = [
        (way, f"{1e3 * medians[way]:.2f}", f"{1e3 * min(each):.2f}", f"{1e3 * max(each):.2f}")
        for way, each in spent.items()
    ]
    print(markdown(("the daemon's processor time of a save, ms", "median", "least", "most"), rows))
    print(f"\nmore with --http: {result['more']:+.1%} by medians, {result['more_by_pairs']:+.1%} by pairs of rounds\n")
    scraped = [
        (runs, str(each["series"]), *(f"{1e3 * each[form]['seconds']:.1f}" for form in FORMS))
        for runs, each in result["scrapes"].items()
    ]
    print(markdown(("runs", "series of ckptd", *(f"{form}, ms" for form in FORMS)), scraped))


if __name__ == "__main__":
    main()
