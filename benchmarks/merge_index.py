"""How long the merge of a large save's index takes, and whether TensorFlow reads the result.

    python benchmarks/merge_index.py                      # 1,000 tensors × 1,000 workers: 1,000,000 slices
    python benchmarks/merge_index.py --tensors 100 --workers 64

Every worker holds one slice, along axis 0, of every tensor. Timed are the two things a daemon does: the plan (once
per layout) and the merge of the shards' checksums into an index (at every save). The data files are sparse: they are
written only where tensors are then read and compared.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ckptd.engine.manifest import Manifest
from ckptd.engine.merge import merge
from ckptd.engine.plan import plan
from ckptd.format import crc32c
from ckptd.format.names import index_key, shard_key

FLOAT32 = 1
COLUMNS = 4  # of each tensor; a slice is one row
NUM_SHARDS = 64


def manifests(num_tensors: int, num_workers: int) -> list[Manifest]:
    names = tuple(f"model/layer_{number:04d}/weights" for number in range(num_tensors))
    zeros = np.zeros(num_tensors, np.int64)
    shapes = np.tile(np.array([1, COLUMNS], np.int64), num_tensors)
    return [
        Manifest(
            names=names,
            dtypes=(FLOAT32,) * num_tensors,
            full_shapes=((num_workers, COLUMNS),) * num_tensors,
            tensor=np.arange(num_tensors, dtype=np.int64),
            starts=np.tile(np.array([rank, 0], np.int64), num_tensors),
            shapes=shapes,
            sizes=np.full(num_tensors, 4 * COLUMNS, np.int64),
            lengths_sizes=zeros,
            lengths_crcs=zeros.astype(np.uint32),
            lengths_covered=zeros,
        )
        for rank in range(num_workers)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tensors", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--check", type=int, default=3, help="tensors whose values TensorFlow reads back")
    parser.add_argument("--no-tensorflow", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    declared = manifests(args.tensors, args.workers)
    began = time.perf_counter()
    layout = plan(declared, NUM_SHARDS)
    plan_s = time.perf_counter() - began

    # Content: of each slice its four values; the checksum of what a writer would have reported for it.
    values = np.random.default_rng(0).standard_normal((len(layout.segment_entry), COLUMNS), np.float32)
    crcs = np.array([crc32c.crc32c(row.tobytes()) for row in values], np.uint32)

    merge_s = []
    for _ in range(args.rounds):
        began = time.perf_counter()
        index = merge(layout, crcs)
        merge_s.append(time.perf_counter() - began)

    found = {
        "slices": args.tensors * args.workers,
        "workers": args.workers,
        "plan_s": plan_s,
        "merge_s": sorted(merge_s)[len(merge_s) // 2],
        "merge_s_all": merge_s,
        "index_bytes": len(index),
    }
    if not args.no_tensorflow:
        found.update(read_by_tensorflow(layout, values, index, args.tensors, args.workers, args.check))
    if args.json:
        print(json.dumps(found, indent=2))
        return
    print(f"{found['slices']:,} slices from {args.workers:,} workers, {len(index) / 1e6:.1f} MB of index")
    print(f"plan   {plan_s:7.2f} s   (once per layout)")
    print(
        f"merge  {found['merge_s']:7.2f} s   (per save; median of {args.rounds}: "
        f"{', '.join(f'{s:.2f}' for s in merge_s)})"
    )
    if "tensorflow_opens_s" in found:
        print(
            f"TensorFlow opens and lists it in {found['tensorflow_opens_s']:.2f} s: {found['tensorflow_tensors']:,} "
            f"tensors; {found['tensorflow_checked']} of them read and equal"
        )


def read_by_tensorflow(layout, values, index, num_tensors, num_workers, num_checked) -> dict[str, object]:
    import tensorflow as tf

    with TemporaryDirectory(prefix="ckptd-merge-") as directory:
        prefix = str(Path(directory) / "model.ckpt-1")
        Path(index_key(prefix)).write_bytes(index)
        for shard, size in enumerate(layout.shard_sizes):
            rows = np.flatnonzero(layout.segment_shard == shard)
            data = np.zeros(size // 4, np.float32)
            data.reshape(-1, COLUMNS)[layout.segment_offset[rows] // (4 * COLUMNS)] = values[rows]
            Path(shard_key(prefix, shard, layout.num_shards)).write_bytes(data.tobytes())
        began = time.perf_counter()
        reader = tf.train.load_checkpoint(prefix)
        shapes = reader.get_variable_to_shape_map()
        opens_s = time.perf_counter() - began
        if len(shapes) != num_tensors or set(map(tuple, shapes.values())) != {(num_workers, COLUMNS)}:
            raise SystemExit(f"TensorFlow sees {len(shapes)} tensors")
        tensors = layout.entry_tensor[layout.segment_entry]
        chosen = np.linspace(0, num_tensors - 1, min(num_checked, num_tensors)).astype(int).tolist()
        for tensor in chosen:
            slices = layout.slices.get(tensor)
            entries = slices.entries if slices is not None else np.flatnonzero(layout.entry_tensor == tensor)
            expected = values[np.searchsorted(layout.segment_entry, entries)]
            assert (tensors[np.searchsorted(layout.segment_entry, entries)] == tensor).all()
            if not np.array_equal(reader.get_tensor(layout.names[tensor]), expected):
                raise SystemExit(f"TensorFlow reads other values for {layout.names[tensor]}")
        return {"tensorflow_opens_s": opens_s, "tensorflow_tensors": len(shapes), "tensorflow_checked": len(chosen)}


if __name__ == "__main__":
    main()
