"""`ckptd cat`: the values of tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ckptd.cli import output
from ckptd.errors import InvalidRequestError

if TYPE_CHECKING:
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
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, with every value.")
def command(prefix: str, names: tuple[str, ...], slice_spec: str | None, full: bool, as_json: bool) -> None:
    """Print the values of the tensors NAME (all of them if none is named) of the checkpoint at PREFIX.

    What is read whole is checked against its checksum.
    """
    import numpy as np

    from ckptd.cli import places

    if slice_spec is not None and len(names) != 1:
        raise InvalidRequestError("--slice needs exactly one NAME to cut")
    _, bundle = places.bundle(prefix)
    places.check_names(bundle, names)
    documents = []
    for name in names or bundle.names():
        shape = bundle.shape(name)
        box = _box(slice_spec, shape) if slice_spec is not None else None
        array = bundle.read(name, box)
        described = {
            "name": name,
            "dtype": bundle.dtype(name).name,
            "shape": list(shape),
            "start": list(box.start) if box is not None else [0] * len(shape),
            "values": None,
        }
        if as_json:
            documents.append({**described, "values": _values(array)})
            continue
        part = f", part {slice_spec}" if box is not None else ""
        output.say(f"{output.printable(name)} ({described['dtype']}, {output.shape(shape)}{part})")
        output.say(np.array2string(array, threshold=array.size + 1 if full else 1000, max_line_width=120))
    if as_json:
        output.emit_json({"prefix": bundle.location, "tensors": documents})


def _box(spec: str, shape: tuple[int, ...]) -> Box:
    from ckptd.format.slices import TensorSlice

    return TensorSlice.parse(spec).resolve(shape)


def _values(array: Any) -> object:
    """Return nested lists of numbers that JSON has: odd dtypes by way of float, complex ones as text."""
    if array.dtype.kind == "V" or array.dtype.name.startswith(("bfloat", "float8", "float4", "float6")):
        return array.astype("float32").tolist()
    if array.dtype.name in ("int4", "uint4", "int2", "uint2"):
        return array.astype("int8").tolist()
    return array.tolist()
