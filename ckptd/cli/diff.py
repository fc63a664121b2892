"""`ckptd diff`: compare two checkpoints, or files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from ckptd.cli import output, served
from ckptd.cli import progress as progress_bars
from ckptd.errors import ConflictError

if TYPE_CHECKING:
    from ckptd.interchange.comparing import Change, TensorDifference
    from ckptd.interchange.source import TensorFacts


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--no-values", is_flag=True, help="Compare names, dtypes and shapes only: no data is read.")
@click.option("--exit-code", is_flag=True, help="Exit with 4 if there is a difference.")
@progress_bars.option
@served.option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    a: str, b: str, no_values: bool, exit_code: bool, progress: str, as_json: bool, daemon: served.ByDaemon
) -> int:
    """Compare A with B: tensors added, removed and changed, and by how much.

    A and B are prefixes of checkpoints, directories (their latest), safetensors or npz files. Values are compared as
    numbers: NaN equals NaN at the same place. The exit code is 0 whatever is found; with --exit-code a difference
    gives 4.

    \b
    Examples:
      ckptd diff model.ckpt-1100 model.ckpt-1200
      ckptd diff model.ckpt-1200 exported.safetensors --exit-code
    """
    from ckptd.cli import sources
    from ckptd.interchange.comparing import compare

    one, other = sources.source(a, daemon), sources.source(b, daemon)
    with progress_bars.shown("comparing", progress) as progressed:
        found = compare(one, other, values=not no_values, progress=progressed)
    if as_json:
        output.emit_json(_document(one.location, other.location, found))
    else:
        _print(found)
    return ConflictError.exit_code if exit_code and not found.is_equal else 0


def _print(found: TensorDifference) -> None:
    equal = f"{found.num_equal} equal"
    if found.is_equal:
        output.tell(f"no difference: {equal}")
        return
    output.table("", ("", "tensor", "dtype", "shape", "different", "max diff", "mean diff"), list(_rows(found)))
    output.say()
    output.tell(f"{len(found.added)} added, {len(found.removed)} removed, {len(found.changed)} changed, {equal}")


def _rows(found: TensorDifference) -> Iterator[tuple[str, ...]]:
    for sign, facts in [*(("-", each) for each in found.removed), *(("+", each) for each in found.added)]:
        yield (sign, facts.name, facts.dtype_name, output.shape(facts.shape), "", "", "")
    for change in found.changed:
        yield ("~", change.name, *_sides(change), *_figures(change))


def _sides(change: Change) -> tuple[str, str]:
    dtypes = (change.a.dtype_name, change.b.dtype_name)
    shapes = (output.shape(change.a.shape), output.shape(change.b.shape))
    return _both(*dtypes), _both(*shapes)


def _both(a: str, b: str) -> str:
    return a if a == b else f"{a} → {b}"


def _figures(change: Change) -> tuple[str, str, str]:
    values = change.values
    if values is None:
        return "", "", ""
    nan = f", {values.num_nan} NaN on one side" if values.num_nan else ""
    share = f"{values.num_different} of {values.num_elements}{nan}"
    return share, _number(values.max_abs), _number(values.mean_abs)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _document(a: str, b: str, found: TensorDifference) -> dict[str, object]:
    return {
        "a": a,
        "b": b,
        "equal": found.is_equal,
        "added": [_facts(each) for each in found.added],
        "removed": [_facts(each) for each in found.removed],
        "changed": [
            {
                "name": change.name,
                "what": change.what,
                "a": _facts(change.a),
                "b": _facts(change.b),
                "values": change.values,
            }
            for change in found.changed
        ],
        "num_equal": found.num_equal,
    }


def _facts(facts: TensorFacts) -> dict[str, object]:
    return {"name": facts.name, "dtype": facts.dtype_name, "shape": facts.shape}
