"""What commands print, and where: people get tables, programs get one JSON document, diagnostics go to stderr.

stdout carries the answer and nothing else, so that it may be piped. A terminal gets rules and colours, and lines of its
width; a pipe gets aligned plain text that is never cut to a width. Numbers meant for people are formatted here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from typing import TextIO

from rich.console import Console

from ckptd.cli import layout
from ckptd.engine.wording import describe_span
from ckptd.errors import readable_size
from ckptd.printable import printable, printable_json

_PIPE_WIDTH = 100_000  # wide enough that rich never folds a line that another program will read
_CELL_GAP = "  "
_WIDEST_COLUMN = 1000


def console(*, stderr: bool = False) -> Console:
    """Return a console on the present stdout or stderr, which tests and callers may have replaced."""
    file = sys.stderr if stderr else sys.stdout
    if file.isatty():
        return Console(file=file, highlight=False)
    return Console(file=file, highlight=False, width=_PIPE_WIDTH, no_color=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows on stdout. A column whose every cell is a number or a quantity is set flush right.

    In a terminal that is too narrow for the table, each row becomes a list; see `layout`.
    """
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    right = [bool(cells) and all(_is_quantity(row[i]) for row in cells) for i in range(len(columns))]
    out = console()
    if out.is_terminal:
        layout.draw(out, printable(title), columns, cells, right)
        return
    for line in plain_table(columns, cells, right):
        print(line)  # noqa: T201


def plain_table(columns: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool]) -> Iterator[str]:
    """Yield a header and rows as aligned text, without rules or trailing blanks."""
    # A longer cell is not cut, but does not widen its column: a name of a megabyte among a million rows would make a
    # terabyte of blanks.
    lengths = [[len(cell) for cell in row] for row in cells]
    widths = [
        max(len(name), *(row[i] for row in lengths if row[i] <= _WIDEST_COLUMN), 0) for i, name in enumerate(columns)
    ]
    for row in [[name.upper() for name in columns], *cells]:
        padded = [
            cell.rjust(width) if flush_right else cell.ljust(width)
            for cell, width, flush_right in zip(row, widths, right, strict=True)
        ]
        yield _CELL_GAP.join(padded).rstrip()


def emit_json(value: object) -> None:
    """Print one JSON document on stdout. Dataclasses become objects, enums their values, bytes text where they can."""
    print(json_text(value, indent=2))  # noqa: T201


def json_text(value: object, indent: int | None = None) -> str:
    """Return `value` as JSON that a terminal may show: names in it come from files."""
    return printable_json(json.dumps(jsonable(value), ensure_ascii=False, indent=indent, allow_nan=False))


def jsonable(value: object) -> object:
    """Return `value` as JSON has it; what JSON lacks (NaN, infinities, odd objects) becomes text."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, Enum):
        return jsonable(value.value)
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: jsonable(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(jsonable(key)): jsonable(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [jsonable(item) for item in value]
    return str(value)


def say(text: str = "", *, lines: bool = False) -> None:
    """Print a line of the answer on stdout: no markup, nothing cut. With `lines`, `text` is several."""
    print(printable(text, lines=lines))  # noqa: T201


def tell(text: str, *, begins_at: int = 0) -> None:
    """Print a line of sentences of the answer on stdout; a terminal gets it wrapped between words.

    `begins_at`: columns of the first line that are printed already.
    """
    whole = _for_terminal(" " * begins_at + printable(text), sys.stdout)
    print(whole[begins_at:])  # noqa: T201


def note(text: str, *, lines: bool = False) -> None:
    """Print a diagnostic line, or `lines`, on stderr; a terminal gets them wrapped between words."""
    print(_for_terminal(printable(text, lines=lines), sys.stderr), file=sys.stderr)  # noqa: T201


def width() -> int | None:
    """Return the width of the terminal that stdout is, None if it is none."""
    return console().width if sys.stdout.isatty() else None


def _for_terminal(text: str, file: TextIO) -> str:
    if not file.isatty():
        return text
    columns = Console(file=file).width
    return "\n".join(layout.wrapped(line, columns, indent="  ") for line in text.split("\n"))


size = readable_size


def duration(seconds: float) -> str:
    """Format a span with the two figures that matter: ``3.2 ms``, ``4.1 s``, ``2 min 5 s``, ``3 h 10 min``."""
    if seconds < 0.0005:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.1f} ms"
    return describe_span(seconds)


def age(then: float, now: float) -> str:
    """Format how long ago `then` was; a moment in the future says so, since a clock must be wrong."""
    if then - now > 1:
        return f"{duration(then - now)} in the future"
    return "now" if now - then < 1 else f"{duration(now - then)} ago"


def moment(then: float) -> str:
    """Format wall-clock seconds since the epoch as local date and time."""
    return datetime.fromtimestamp(then).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def shape(dimensions: Sequence[int]) -> str:
    """Format a shape for people: ``1000 × 64``, or ``scalar``."""
    return " × ".join(str(size) for size in dimensions) if dimensions else "scalar"


def _is_quantity(cell: str) -> bool:
    """Tell whether a cell is a number, perhaps with a unit behind it."""
    number = cell.split(" ", 1)[0].rstrip("%").replace(",", "")
    try:
        float(number)
    except ValueError:
        return cell in ("", "–")
    return "×" not in cell
