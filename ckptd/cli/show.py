"""`ckptd show`: what a checkpoint holds, without reading its values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from ckptd.cli import output
from ckptd.errors import NotFoundError

if TYPE_CHECKING:
    from ckptd.cli.sources import FileSource
    from ckptd.engine.restore import Bundle
    from ckptd.storage.base import Store


@dataclass(frozen=True, slots=True)
class TensorRow:
    """One tensor as it is described.

    `slices` is 0 for a tensor stored whole. `tensorflow_reads` is False for slices that TensorFlow cannot join,
    although we can: it knows how to only for some dtypes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    slices: int
    shards: tuple[int, ...]
    size_bytes: int
    tensorflow_reads: bool


@dataclass(frozen=True, slots=True)
class ShardRow:
    """One data file: its name, its size (None when it is missing), and the bytes of it that tensors refer to."""

    name: str
    size_bytes: int | None
    used_bytes: int


@click.command()
@click.argument("prefix")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(prefix: str, as_json: bool) -> None:
    """Describe the checkpoint at PREFIX: its tensors and its shards.

    PREFIX is what its files share: model.ckpt-120 for model.ckpt-120.index. A directory stands for its latest. A
    safetensors or npz file is described too.
    """
    from ckptd.cli import places, sources

    if sources.is_file(prefix):
        _show_file(sources.file(prefix), as_json)
        return
    store, bundle = places.bundle(prefix)
    tensors = describe_tensors(bundle)
    shards = describe_shards(store, bundle)
    if as_json:
        output.emit_json({"prefix": bundle.location, "tensors": tensors, "shards": shards})
        return
    output.table(
        bundle.location,
        ("tensor", "dtype", "shape", "size", "slices", "shards", ""),
        [
            (
                row.name,
                row.dtype,
                output.shape(row.shape),
                output.size(row.size_bytes),
                row.slices or "whole",
                ranges(row.shards),
                "" if row.tensorflow_reads else "TensorFlow cannot join these slices",
            )
            for row in tensors
        ],
    )
    output.say()
    output.table(
        "",
        ("shard", "size", "in use"),
        [
            (
                row.name,
                "MISSING" if row.size_bytes is None else output.size(row.size_bytes),
                output.size(row.used_bytes),
            )
            for row in shards
        ],
    )
    total = sum(row.size_bytes for row in tensors)
    output.say()
    output.say(f"{len(tensors)} tensors, {output.size(total)} in {len(shards)} shards")
    if any(row.size_bytes is None for row in shards):
        output.note("a shard is missing: this checkpoint is not whole")


def _show_file(source: FileSource, as_json: bool) -> None:
    """Describe a file of tensors, which has neither slices nor shards."""
    rows = [(source.facts(name), source.size_bytes(name)) for name in source.names()]
    if as_json:
        tensors = [
            {"name": facts.name, "dtype": facts.dtype_name, "shape": facts.shape, "size_bytes": size}
            for facts, size in rows
        ]
        output.emit_json({"file": source.location, "tensors": tensors})
        return
    output.table(
        source.location,
        ("tensor", "dtype", "shape", "size"),
        [(facts.name, facts.dtype_name, output.shape(facts.shape), output.size(size)) for facts, size in rows],
    )
    output.say()
    output.say(f"{len(rows)} tensors, {output.size(sum(size for _, size in rows))}")


def describe_tensors(bundle: Bundle) -> list[TensorRow]:
    """Return a row per tensor, in the index's order."""
    rows = []
    for name in bundle.names():
        tensor = bundle.index.tensor(name)
        rows.append(
            TensorRow(
                name=name,
                dtype=tensor.dtype.name,
                shape=tuple(tensor.shape),
                slices=len(tensor.pieces) if tensor.is_sliced else 0,
                shards=tuple(sorted({piece.shard_id for piece in tensor.pieces})),
                size_bytes=sum(piece.size for piece in tensor.pieces),
                tensorflow_reads=tensor.dtype.joinable or not tensor.is_sliced,
            )
        )
    return rows


def describe_shards(store: Store, bundle: Bundle) -> list[ShardRow]:
    """Return a row per data file that the index tells of, there or not."""
    used = [0] * bundle.index.num_shards
    for name in bundle.names():
        for piece in bundle.index.tensor(name).pieces:
            used[piece.shard_id] += piece.size
    rows = []
    for shard, used_bytes in enumerate(used):
        size_bytes: int | None
        try:
            size_bytes = store.stat(bundle.shard_key(shard)).size_bytes
        except NotFoundError:
            size_bytes = None
        rows.append(ShardRow(bundle.shard_key(shard).rpartition("/")[2], size_bytes, used_bytes))
    return rows


def ranges(numbers: tuple[int, ...]) -> str:
    """Format ascending numbers with runs drawn together: ``0-3, 7``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
