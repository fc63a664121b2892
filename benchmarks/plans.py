"""The first plan and the first index of a very large job, and what the saves after it cost.

    python benchmarks/plans.py                              # 8,000 ranks, 300 slices of each
    python benchmarks/plans.py --ranks 1000 --check

Three jobs of so many ranks, one after another, each with its manifests in memory as the daemon keeps them:

- wide      every tensor is cut into a slice for each rank
- stages    each eight ranks have tensors of their own, cut into eight: hundreds of thousands of tensors
- hosts     as wide, and each eight ranks are on a host that writes by itself: slices of a host are stored as one

Seconds are of processor time in one thread. `plan` and `index` are those of a new layout, `unchanged` is the plan of an
equal save, which its digests tell, `next` its index. `--check` compares them with limits, which are for 2.4 million
slices and less for fewer.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from measuring import forget_peak, markdown, memory_of

from ckptd.engine.lanes.merge import merge
from ckptd.engine.manifest import Manifest
from ckptd.engine.saves.known_layouts import KnownLayouts
from ckptd.engine.saves.known_manifests import KnownManifests
from ckptd.storage.base import Durability

GROUP = 8  # ranks
ROWS, COLUMNS = 8, 64
FLOAT = 1

SLICES = 2_400_000
MOST_FIRST_S, MOST_UNCHANGED_S, MOST_NEXT_S, MOST_BYTES = 6.0, 0.05, 2.0, 1 << 30

T = TypeVar("T")


def manifests_of(job: str, num_ranks: int, num_tensors: int) -> tuple[Manifest, ...]:
    known = KnownManifests()
    return tuple(manifest_of(known, job, num_ranks, num_tensors, rank) for rank in range(num_ranks))


def manifest_of(known: KnownManifests, job: str, num_ranks: int, num_tensors: int, rank: int) -> Manifest:
    stage, place = divmod(rank, GROUP) if job == "stages" else (0, rank)
    parts = min(GROUP, num_ranks - stage * GROUP) if job == "stages" else num_ranks
    starts = np.zeros((num_tensors, 2), np.int64)
    starts[:, 0] = ROWS * place
    nothing = np.zeros(num_tensors, np.int64)
    manifest = Manifest(
        names=tuple(f"model/stage_{stage:04d}/layer_{number:03d}/weights" for number in range(num_tensors)),
        dtypes=(FLOAT,) * num_tensors,
        full_shapes=((ROWS * parts, COLUMNS),) * num_tensors,
        tensor=np.arange(num_tensors),
        starts=starts.ravel(),
        shapes=np.tile(np.array([ROWS, COLUMNS]), num_tensors),
        sizes=np.full(num_tensors, ROWS * COLUMNS * 4),
        lengths_sizes=nothing,
        lengths_crcs=nothing.astype(np.uint32),
        lengths_covered=nothing,
    )
    known.add(manifest)
    return known.find(manifest.digest)


def timed(work: Callable[[], T]) -> tuple[float, T]:
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def measure(job: str, num_ranks: int, num_tensors: int) -> dict[str, Any]:
    manifests = manifests_of(job, num_ranks, num_tensors)
    hosts: Sequence[str] = [f"host-{rank // GROUP}" for rank in range(num_ranks)] if job == "hosts" else ()
    layouts = KnownLayouts(Durability.OBJECT_STORE, None)
    forget_peak()
    plan_s, layout = timed(lambda: layouts.of(manifests, hosts=tuple(hosts)))
    crcs = np.random.default_rng(0).integers(1, 1 << 32, len(layout.segment_size), dtype=np.uint32)
    index_s, index = timed(lambda: merge(layout, crcs))
    peak_bytes, size = memory_of()["VmHWM"], len(index)
    unchanged_s, same = timed(lambda: layouts.of(manifests, hosts=tuple(hosts)))
    if same is not layout:
        raise SystemExit("an unchanged save was planned anew")
    del index
    next_s, index = timed(lambda: merge(layout, crcs ^ np.uint32(1)))
    if len(index) != size:
        raise SystemExit("the index of the next save has another size")
    return {
        "job": job,
        "ranks": num_ranks,
        "slices": len(layout.segment_size),
        "entries": len(layout.entry_size),
        "plan_s": plan_s,
        "index_s": index_s,
        "first_s": plan_s + index_s,
        "unchanged_s": unchanged_s,
        "next_s": next_s,
        "index_bytes": size,
        "peak_bytes": peak_bytes,
    }


def broken(found: dict[str, Any]) -> list[str]:
    """Return which limits do not hold, in words."""
    share = max(found["slices"] / SLICES, 0.05)  # a process has some size, and a call takes some time
    limits = {
        "first_s": MOST_FIRST_S * share,
        "unchanged_s": MOST_UNCHANGED_S,
        "next_s": MOST_NEXT_S * share,
        "peak_bytes": MOST_BYTES * max(share, 0.2),
    }
    return [f"{found['job']}: {what} is {found[what]:.3g}, more than {most:.3g}" for what, most in limits.items()
            if found[what] > most]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=8_000)
    parser.add_argument("--slices", type=int, default=300, help="of each rank, each of another tensor")
    parser.add_argument("--jobs", nargs="+", default=["wide", "hosts", "stages"], choices=("wide", "hosts", "stages"))
    parser.add_argument("--check", action="store_true", help="exit code 1 if a limit does not hold for wide or hosts")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = [measure(job, args.ranks, args.slices) for job in args.jobs]
    if args.json:
        print(json.dumps({"jobs": found}, indent=2))
    else:
        print(markdown(HEADS, [cells(each) for each in found]))
    problems = [problem for each in found if each["job"] != "stages" for problem in broken(each)]
    if args.check and problems:
        raise SystemExit("\n".join(problems))


HEADS = ("job", "slices", "entries", "plan s", "index s", "unchanged ms", "next s", "index MB", "peak MiB")


def cells(found: dict[str, Any]) -> list[str]:
    return [
        found["job"],
        f"{found['slices']:,}",
        f"{found['entries']:,}",
        f"{found['plan_s']:.2f}",
        f"{found['index_s']:.2f}",
        f"{found['unchanged_s'] * 1e3:.1f}",
        f"{found['next_s']:.2f}",
        f"{found['index_bytes'] / 1e6:.1f}",
        f"{found['peak_bytes'] / (1 << 20):,.0f}",
    ]


if __name__ == "__main__":
    main()
