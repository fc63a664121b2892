"""`ckptd show`: what a checkpoint holds, and on request statistics of its values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from ckptd.cli import output, served
from ckptd.cli import progress as progress_bars
from ckptd.errors import InvalidRequestError, NotFoundError
from ckptd.printable import counted

if TYPE_CHECKING:
    from ckptd.cli.sources import FileSource
    from ckptd.cli.values import Looks
    from ckptd.engine.reading.bundle import Bundle
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


@dataclass(frozen=True, slots=True)
class PieceRow:
    """Where one stored piece of a tensor is. `slice` is empty for a tensor stored whole."""

    slice: str
    shard: int
    offset: int
    size_bytes: int
    crc32c: str


@click.command()
@click.argument("prefix")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--stats", is_flag=True, help="Read the values, in bounded memory: extremes, mean, NaNs.")
@click.option("--plot", is_flag=True, help="Draw the distribution of the values, a histogram per tensor.")
@click.option("--layout", is_flag=True, help="Say where each piece lies: shard, first byte, bytes, checksum.")
@progress_bars.option
@served.option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    prefix: str,
    names: tuple[str, ...],
    stats: bool,
    plot: bool,
    layout: bool,
    progress: str,
    as_json: bool,
    daemon: served.ByDaemon,
) -> None:
    """Describe the checkpoint at PREFIX: its tensors, or those of NAME, and its shards.

    PREFIX is what its files share: model.ckpt-120 for model.ckpt-120.index. A directory stands for its latest. A
    safetensors or npz file is described too.
    """
    from ckptd.cli import places, sources, values

    named = served.look(prefix, daemon)
    if sources.is_file(named):
        if layout:
            raise InvalidRequestError("--layout shows the shards of a checkpoint; this is a file", key=prefix)
        _show_file(sources.file(named), names, stats, plot, progress, as_json)
        return
    store, bundle = places.bundle(named)
    places.check_names(bundle, names)
    tensors = [row for row in describe_tensors(bundle) if not names or row.name in names]
    shards = describe_shards(store, bundle)
    looks = None
    if stats or plot:
        numbers = values.in_bundle(bundle, [row.name for row in tensors])
        looks = values.Looks.at(numbers, with_histogram=plot, progress=progress)
    if as_json:
        documents = [_describe(bundle, row, looks, plot=plot, layout=layout) for row in tensors]
        output.emit_json({"prefix": bundle.location, "tensors": documents, "shards": shards})
        return
    _print_tensors(bundle, tensors)
    if looks is not None and stats:
        output.say()
        looks.print_statistics()
    if layout:
        output.say()
        _print_layout(bundle, tensors)
    output.say()
    _print_shards(shards)
    total = sum(row.size_bytes for row in tensors)
    output.say()
    output.tell(
        f"{_tensors(len(tensors), len(bundle.names()))}, {output.size(total)} in {counted(len(shards), 'shard')}"
    )
    if looks is not None and plot:
        looks.print_histograms()
    if any(row.size_bytes is None for row in shards):
        output.note("a shard is missing: this checkpoint is not whole")


def _describe(bundle: Bundle, row: TensorRow, looks: Looks | None, *, plot: bool, layout: bool) -> dict[str, object]:
    """Return what `--json` says of one tensor."""
    said = asdict(row)
    if looks is not None:
        said |= looks.describe(row.name, plot)
    if layout:
        said["pieces"] = describe_pieces(bundle, row.name)
    return said


def _print_tensors(bundle: Bundle, tensors: list[TensorRow]) -> None:
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


def _print_layout(bundle: Bundle, tensors: list[TensorRow]) -> None:
    output.table(
        "Layout",
        ("tensor", "slice", "shard", "first byte", "bytes", "crc32c"),
        [
            (row.name, piece.slice, piece.shard, piece.offset, piece.size_bytes, piece.crc32c)
            for row in tensors
            for piece in describe_pieces(bundle, row.name)
        ],
    )


def _print_shards(shards: list[ShardRow]) -> None:
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


def _show_file(
    source: FileSource, names: tuple[str, ...], stats: bool, plot: bool, progress: str, as_json: bool
) -> None:
    """Describe a file of tensors, which has neither slices nor shards."""
    from ckptd.cli import sources, values

    sources.check_names(source, names)
    chosen = [name for name in source.names() if not names or name in names]
    rows = [(source.facts(name), source.size_bytes(name)) for name in chosen]
    looks = None
    if stats or plot:
        looks = values.Looks.at(values.in_file(source, chosen), with_histogram=plot, progress=progress)
    if as_json:
        tensors = []
        for facts, size in rows:
            said = {"name": facts.name, "dtype": facts.dtype_name, "shape": facts.shape, "size_bytes": size}
            tensors.append(said if looks is None else said | looks.describe(facts.name, plot))
        output.emit_json({"file": source.location, "metadata": source.metadata, "tensors": tensors})
        return
    output.table(
        source.location,
        ("tensor", "dtype", "shape", "size"),
        [(facts.name, facts.dtype_name, output.shape(facts.shape), output.size(size)) for facts, size in rows],
    )
    if looks is not None and stats:
        output.say()
        looks.print_statistics()
    if source.metadata:
        output.say()
        output.table("Metadata", ("metadata", "text"), sorted(source.metadata.items()))
    output.say()
    output.tell(f"{_tensors(len(rows), len(source.names()))}, {output.size(sum(size for _, size in rows))}")
    if looks is not None and plot:
        looks.print_histograms()


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


def describe_pieces(bundle: Bundle, name: str) -> list[PieceRow]:
    """Return a row per stored piece of a tensor."""
    from ckptd.format.slices import TensorSlice

    tensor = bundle.index.tensor(name)
    return [
        PieceRow(
            slice=str(TensorSlice.of_box(piece.box)) if tensor.is_sliced else "",
            shard=piece.shard_id,
            offset=piece.offset,
            size_bytes=piece.size,
            crc32c=f"{piece.crc32c:08x}",
        )
        for piece in tensor.pieces
    ]


def describe_shards(store: Store, bundle: Bundle) -> list[ShardRow]:
    """Return a row per data file that the index names, whether it exists or not."""
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
    """Format ascending numbers, runs of them as ranges: ``0-3, 7``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _tensors(shown: int, in_all: int) -> str:
    return counted(shown, "tensor") if shown == in_all else f"{shown} of {counted(in_all, 'tensor')}"
