"""What a save with very many slices costs for each of them, from a thousand to a million, and TensorFlow's word on it.

    python benchmarks/slices.py                                   # 1,000 to 1,000,000 slices
    python benchmarks/slices.py --slices 1000000 --rounds 1
    python benchmarks/slices.py --plot slices.svg --check

As many workers as tensors; every worker holds one slice, along axis 0, of every tensor. One thread does all of it:

- declare  each worker's manifest to the messages that carry it, and back into a manifest that was checked
- plan     the daemon gives every slice a shard and an offset
- merge    the daemon makes the index of the slices' checksums; at every save
- planned, unchanged   from the first declaration until every worker has its assignment, through the daemon's
           coordinator: the first time, and once more for the same manifests, of which only the digests are told then

The first two are done once for each layout. TensorFlow opens the largest index and reads a few tensors; the data files
are sparse, and written only where tensors are read and compared.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
from measuring import markdown
from simulated_workers import COLUMNS, SLICE_BYTES, manifest_of

from ckptd.engine.identity import Declaration, Member, RunOptions, SaveRef
from ckptd.engine.lanes.merge import merge
from ckptd.engine.lanes.plan import plan
from ckptd.engine.layout import Layout
from ckptd.engine.manifest import Manifest
from ckptd.engine.saves.coordinator import Coordinator
from ckptd.engine.settings import MAX_SHARDS
from ckptd.format import crc32c
from ckptd.format.names import index_key, shard_key
from ckptd.storage.memory import MemoryStore
from ckptd.wire.manifests import collect_manifest, manifest_parts

RUN = "slices"
STAGES = ("declare", "plan", "merge")
FLAT = 1.5  # times the cheapest of the smaller ones is the most that a slice may cost
_TIMEOUT_S = 600.0

T = TypeVar("T")


def timed(work: Callable[[], T]) -> tuple[float, T]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def measure(num_slices: int, rounds: int) -> tuple[dict[str, Any], Layout, np.ndarray, bytes]:
    """Return the figures of one size, and what TensorFlow is to read: the layout, the values and the index."""
    side = round(num_slices**0.5)
    taken: dict[str, list[float]] = {stage: [] for stage in (*STAGES, "planned", "unchanged")}
    for _ in range(rounds):
        declared = []
        took_s = 0.0
        for rank in range(side):
            brought = manifest_of(rank, side, side)
            one_s, manifest = timed(lambda brought=brought: collect_manifest(manifest_parts(brought)))
            took_s += one_s
            declared.append(manifest)
        taken["declare"].append(took_s)
        took_s, layout = timed(lambda declared=declared: plan(declared, min(side, MAX_SHARDS)))
        taken["plan"].append(took_s)
        values = np.random.default_rng(0).standard_normal((len(layout.segment_entry), COLUMNS), np.float32)
        crcs = np.array([crc32c.crc32c(row.tobytes()) for row in values], np.uint32)
        took_s, index = timed(lambda layout=layout, crcs=crcs: merge(layout, crcs))
        taken["merge"].append(took_s)
        for what, took_s in zip(("planned", "unchanged"), coordinated(declared), strict=True):
            taken[what].append(took_s)
    medians = {stage: statistics.median(each) for stage, each in taken.items()}
    count = side * side
    figures = {
        "slices": count,
        "workers": side,
        "index_bytes": len(index),
        **{f"{stage}_s": seconds for stage, seconds in medians.items()},
        "us_per_slice": {stage: medians[stage] / count * 1e6 for stage in STAGES},
    }
    figures["us_per_slice"]["all"] = sum(figures["us_per_slice"].values())
    return figures, layout, values, index


def coordinated(manifests: list[Manifest]) -> tuple[float, float]:
    """Return how long every rank waits for its assignment: in a first save, and in one of an unchanged layout."""
    coordinator = Coordinator(MemoryStore("slices"))
    coordinator.open()
    try:
        world_size = len(manifests)
        members = [Member(rank, world_size, f"life-{rank}") for rank in range(world_size)]
        epochs = [coordinator.join(RUN, member, RunOptions()) for member in members]
        for manifest in manifests:
            coordinator.manifests.add(manifest)

        def declare(step: int) -> SaveRef:
            answers = [
                coordinator.declare(
                    Declaration(
                        save=SaveRef(RUN, epoch, step, rank=member.rank, incarnation=member.incarnation),
                        request_id=f"request-{step}-{member.rank}",
                        world_size=world_size,
                        manifest_digest=manifest.digest,
                    )
                )
                for epoch, member, manifest in zip(epochs, members, manifests, strict=True)
            ]
            first, *_ = [answer.result(_TIMEOUT_S) for answer in answers]
            return first.save

        planned_s, first = timed(lambda: declare(1))
        coordinator.abort(first, "only its plan was wanted")
        coordinator.settle(_TIMEOUT_S)
        unchanged_s, second = timed(lambda: declare(2))
        coordinator.abort(second, "only its plan was wanted")
        coordinator.settle(_TIMEOUT_S)
        return planned_s, unchanged_s
    finally:
        coordinator.close()


def read_by_tensorflow(
    layout: Layout, values: np.ndarray, index: bytes, side: int, num_checked: int
) -> dict[str, object]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    with TemporaryDirectory(prefix="ckptd-slices-") as directory:
        prefix = str(Path(directory) / "model.ckpt-1")
        Path(index_key(prefix)).write_bytes(index)
        for shard, size in enumerate(layout.shard_sizes):
            data = np.zeros(size, np.uint8)
            rows = np.flatnonzero(layout.segment_shard == shard)
            for row, at in zip(rows.tolist(), layout.segment_offset[rows].tolist(), strict=True):
                data[at : at + SLICE_BYTES] = values[row].view(np.uint8)
            Path(shard_key(prefix, shard, layout.num_shards)).write_bytes(data.tobytes())
        opens_s, reader = timed(lambda: tf.train.load_checkpoint(prefix))
        lists_s, shapes = timed(reader.get_variable_to_shape_map)
        if len(shapes) != side or set(map(tuple, shapes.values())) != {(side, COLUMNS)}:
            raise SystemExit(f"TensorFlow sees {len(shapes)} tensors")
        chosen = np.linspace(0, side - 1, min(num_checked, side)).astype(int).tolist()
        for tensor in chosen:
            slices = layout.slices.get(tensor)
            entries = slices.entries if slices is not None else np.flatnonzero(layout.entry_tensor == tensor)
            expected = values[np.searchsorted(layout.segment_entry, entries)]
            if not np.array_equal(reader.get_tensor(layout.names[tensor]), expected):
                raise SystemExit(f"TensorFlow reads other values for {layout.names[tensor]}")
        return {
            "tensorflow_opens_s": opens_s + lists_s,
            "tensorflow_tensors": len(shapes),
            "tensorflow_checked": len(chosen),
        }


def plot(sizes: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "ckptd"})  # the same figures, the same file
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6, 3.5))
    counts = [each["slices"] for each in sizes]
    for stage, colour in zip((*STAGES, "all"), ("#94a3b8", "#64748b", "#334155", "#c2410c"), strict=True):
        axis.plot(counts, [each["us_per_slice"][stage] for each in sizes], marker="o", label=stage, color=colour)
    axis.set_xscale("log")
    axis.set_ylim(bottom=0)
    axis.set_xlabel("slices")
    axis.set_ylabel("µs for each of them")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--read", type=int, default=3, help="tensors whose values TensorFlow reads back")
    parser.add_argument("--no-tensorflow", action="store_true")
    parser.add_argument("--plot", type=Path, help="draw the cost of a slice: an SVG file; needs matplotlib")
    parser.add_argument(
        "--check", action="store_true", help=f"exit code 1 if the most slices cost {FLAT} times the least"
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    logging.getLogger("ckptd").setLevel(logging.CRITICAL)  # the saves that are planned are given up, and it says so
    sizes = []
    for count in sorted(args.slices):
        figures, layout, values, index = measure(count, args.rounds)
        sizes.append(figures)
    found: dict[str, Any] = {"sizes": sizes, "growth": growth(sizes)}
    if not args.no_tensorflow:
        found |= read_by_tensorflow(layout, values, index, sizes[-1]["workers"], args.read)
    if args.plot is not None:
        plot(sizes, args.plot)
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        print(markdown(HEADS, [cells(each) for each in sizes]))
        print(f"\nthe most slices cost {found['growth']:.2f} times as much each as the cheapest of the others")
        if "tensorflow_opens_s" in found:
            print(
                f"TensorFlow opens and lists {sizes[-1]['slices']:,} slices in {found['tensorflow_opens_s']:.2f} s: "
                f"{found['tensorflow_tensors']:,} tensors; {found['tensorflow_checked']} of them read and equal"
            )
    if args.check and found["growth"] > FLAT:
        raise SystemExit(1)


def growth(sizes: list[dict[str, Any]]) -> float:
    *others, most = (each["us_per_slice"]["all"] for each in sizes)
    return most / min(others) if others else 1.0


HEADS = (
    "slices",
    "declare s",
    "plan s",
    "merge s",
    "µs a slice: declare",
    "plan",
    "merge",
    "all",
    "planned s",
    "unchanged s",
    "index MB",
)


def cells(figures: dict[str, Any]) -> list[str]:
    return [
        f"{figures['slices']:,}",
        *(f"{figures[f'{stage}_s']:.3f}" for stage in STAGES),
        *(f"{figures['us_per_slice'][stage]:.2f}" for stage in (*STAGES, "all")),
        f"{figures['planned_s']:.3f}",
        f"{figures['unchanged_s']:.3f}",
        f"{figures['index_bytes'] / 1e6:.1f}",
    ]


if __name__ == "__main__":
    main()
