"""`ckptd cat`: the values of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

import click

from ckptd.cli import output, served
from ckptd.errors import InvalidRequestError

if TYPE_CHECKING:
    from ckptd.cli.sources import FileSource
    from ckptd.engine.reading.bundle import Array, Bundle
    from ckptd.format.slices import Box


@click.command()
@click.argument("prefix")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option(
    "--slice",
    "slice_spec",
    metavar="SPEC",
    help="Only a part of the one NAME: start,length per dimension and - for a whole one, as in 0,10:-",
)
@click.option("--full", is_flag=True, help="Print every value of large tensors too.")
@served.option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, with every value.")
def command(
    prefix: str,
    names: tuple[str, ...],
    slice_spec: str | None,
    full: bool,
    as_json: bool,
    daemon: served.ByDaemon,
) -> None:
    """Print the values of the tensors NAME (all of them if none is named) of the checkpoint at PREFIX, or
    of a safetensors or npz file.

    What is read whole is checked against its checksum, where there is one.
    """
    import numpy as np

    from ckptd.cli import places, sources

    if slice_spec is not None and len(names) != 1:
        raise InvalidRequestError("--slice needs exactly one NAME to cut")
    named = served.look(prefix, daemon)
    if sources.is_file(named):
        container: _Container = _File(sources.file(named))
    else:
        container = _Checkpoint(places.bundle(named)[1])
    container.check(names)
    documents = []
    for name in names or container.names():
        dtype, shape = container.describe(name)
        box = _box(slice_spec, shape) if slice_spec is not None else None
        array = container.read(name, box)
        if as_json:
            start = list(box.start) if box is not None else [0] * len(shape)
            values = json_values(array)
            documents.append({"name": name, "dtype": dtype, "shape": shape, "start": start, "values": values})
            continue
        part = f", part {slice_spec}" if box is not None else ""
        output.tell(f"{name} ({dtype}, {output.shape(shape)}{part})")
        output.say(
            np.array2string(array, threshold=array.size + 1 if full else 1000, max_line_width=output.width() or 120),
            lines=True,
        )
    if as_json:
        output.emit_json({"prefix": container.location, "tensors": documents})


_POINTER_BYTES = 8  # the least memory of a string in numpy's array


class _Container(Protocol):
    """What values can be read from."""

    @property
    def location(self) -> str: ...

    def names(self) -> list[str]: ...

    def check(self, names: Sequence[str]) -> None: ...

    def describe(self, name: str) -> tuple[str, tuple[int, ...]]:
        """Return a tensor's dtype, by its name, and its shape."""

    def read(self, name: str, box: Box | None) -> Array: ...


class _Checkpoint:
    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self.location = bundle.location

    def names(self) -> list[str]:
        return self._bundle.names()

    def check(self, names: Sequence[str]) -> None:
        from ckptd.cli import places

        places.check_names(self._bundle, names)

    def describe(self, name: str) -> tuple[str, tuple[int, ...]]:
        return self._bundle.dtype(name).name, self._bundle.shape(name)

    def read(self, name: str, box: Box | None) -> Array:
        from ckptd.cli import memory

        elements = prod(self._bundle.shape(name) if box is None else box.shape)
        width = self._bundle.dtype(name).width or _POINTER_BYTES
        memory.check_fits(name, elements * width, "print a part of it with --slice")
        return self._bundle.read(name, box)


class _File:
    def __init__(self, source: FileSource) -> None:
        self._source = source
        self.location = source.location

    def names(self) -> list[str]:
        return self._source.names()

    def check(self, names: Sequence[str]) -> None:
        from ckptd.cli import sources

        sources.check_names(self._source, names)

    def describe(self, name: str) -> tuple[str, tuple[int, ...]]:
        facts = self._source.facts(name)
        return facts.dtype_name, facts.shape

    def read(self, name: str, box: Box | None) -> Array:
        from ckptd.cli import sources

        array = sources.read(self._source, name)
        return (
            array if box is None else array[tuple(slice(a, a + n) for a, n in zip(box.start, box.shape, strict=True))]
        )


def _box(spec: str, shape: tuple[int, ...]) -> Box:
    from ckptd.format.slices import TensorSlice

    return TensorSlice.parse(spec).resolve(shape)


def json_values(array: Any) -> object:
    """Return nested lists of numbers that JSON has: other dtypes as float, complex ones as text."""
    if array.dtype.kind == "V" or array.dtype.name.startswith(("bfloat", "float8", "float4", "float6")):
        return array.astype("float32").tolist()
    if array.dtype.name in ("int4", "uint4", "int2", "uint2"):
        return array.astype("int8").tolist()
    return array.tolist()
