"""Merged bundles, byte for byte as TensorFlow merged them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ckptd.format.bundle_merge import MergedBundle, MergeInput, merge_bundles
from ckptd.format.index import Index
from ckptd.format.slices import format_spec
from tests.conformance.bundle_files import FIXTURES, BundleReader, BundleWriter

STAGES = FIXTURES / "tf" / "sharded_stages"
MERGED_TWICE = FIXTURES / "tf" / "merge_of_merges"
SHARDED = FIXTURES / "tf" / "sharded_saver"


def opened(prefix: Path) -> MergeInput:
    return MergeInput(str(prefix), Index.decode(prefix.with_name(prefix.name + ".index").read_bytes()))


def carry_out(merged: MergedBundle, destination: Path) -> MergeInput:
    for old, new in merged.renames(str(destination)):
        Path(new).write_bytes(Path(old).read_bytes())
    Path(f"{destination}.index").write_bytes(merged.index)
    return opened(destination)


def assert_equal_files(ours: Path, theirs: Path) -> None:
    names = sorted(path.name for path in theirs.parent.glob(theirs.name + ".[id]*"))
    assert sorted(path.name for path in ours.parent.glob(ours.name + ".[id]*")) == names
    for name in names:
        assert (ours.parent / name).read_bytes() == (theirs.parent / name).read_bytes(), name


def test_the_parts_of_a_sharded_save_merge_to_tensorflows_files(tmp_path: Path) -> None:
    order = json.loads((STAGES / "manifest.json").read_text())["merge_order"]
    merged = merge_bundles([opened(STAGES / prefix) for prefix in order], str(tmp_path / "model"))
    carry_out(merged, tmp_path / "model")
    assert_equal_files(tmp_path / "model", STAGES / "after" / "model")


def test_a_merged_bundle_merges_again_to_tensorflows_files(tmp_path: Path) -> None:
    parts = {}
    for number, name in enumerate("abc"):
        writer = BundleWriter(tmp_path / name)
        writer.add(f"v_{name}", np.array([number], np.float32))
        parts[name] = opened(writer.finish())
    first = carry_out(merge_bundles([parts["a"], parts["b"]]), tmp_path / "ab")
    carry_out(merge_bundles([parts["c"], first], str(tmp_path / "out")), tmp_path / "out")
    assert_equal_files(tmp_path / "out", MERGED_TWICE / "out")


def test_a_sharded_saver_across_devices_merges_to_tensorflows_files(tmp_path: Path) -> None:
    """The manifest tells which tensors each device saved; slices of one that crosses devices went in order."""
    reader = BundleReader(SHARDED / "model.ckpt-50")
    slices = {name: iter(reader.index.entry(name.encode()).slices) for name in reader.index}
    parts = []
    for number, shard in enumerate(json.loads((SHARDED / "manifest.json").read_text())["shards_of_save_ops"]):
        writer = BundleWriter(tmp_path / f"part-{number:05d}")
        for name in shard["names"]:
            stored = reader.index.tensor(name)
            piece = next(slices[name]) if stored.is_sliced else None
            box = piece and piece.resolve(stored.shape)
            writer.add(name, reader.read(name, box), spec=format_spec(stored.shape, piece) if piece else "")
        parts.append(opened(writer.finish()))
    merged = merge_bundles(parts, str(tmp_path / "model.ckpt-50"))
    assert Index.decode(merged.index).entry(b"emb").shard_id == 2
    carry_out(merged, tmp_path / "model.ckpt-50")
    assert_equal_files(tmp_path / "model.ckpt-50", SHARDED / "model.ckpt-50")
