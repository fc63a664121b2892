"""Tables and sentences on a terminal of any width: no number, path or word is ever broken.

A table that fits is drawn as one; if only its long texts are too wide, they are wrapped between words. In a narrower
terminal each row becomes a short list. The terminal itself breaks a path that is longer than a line, so that it can be
copied whole.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

_PROSE_COLUMNS = 28  # a text that is wrapped to less is hard to read
_CELL_FRAME = 3  # a rule and two blanks around each cell
_INDENT = "  "

# What belongs together keeps its blank: a number and its unit, a shape, a date and its time.
_UNITS = r"(?:[kMGTP]?B|B/s|[kMGT]B/s|µs|ms|s|min|h|d|ago|of|in|ranks?|shards?|tensors?)"
_GLUED = re.compile(rf"(?<=\d) (?={_UNITS}\b)|(?<=[a-z]) (?=ago\b)|(?<=\d) (?=×)|(?<=×) (?=\d)|(?<=\d-\d\d) (?=\d\d:)")
_GLUE = "\N{NO-BREAK SPACE}"

Cells = Sequence[Sequence[str]]


def draw(out: Console, title: str, columns: Sequence[str], rows: Cells, right: Sequence[bool]) -> None:
    """Print a table, or a list where the terminal is too narrow for it. `right`: the columns to set flush right."""
    if title:
        out.print(Text(title, style="bold"), soft_wrap=True)
    fitted = _fitted(columns, rows, out.width)
    if fitted is None:
        _print_list(out, columns, rows)
        return
    drawn = Table()
    for name, flush_right in zip(columns, right, strict=True):
        drawn.add_column(Text(name), justify="right" if flush_right else "left", no_wrap=True)
    for row in fitted:
        drawn.add_row(*(Text(cell) for cell in row))
    out.print(drawn)


def wrapped(text: str, width: int, *, indent: str = "") -> str:
    """Return one line of prose in lines of at most `width`, those after the first indented; words stay whole."""
    if cell_len(text) <= width:
        return text
    lines = textwrap.wrap(
        _GLUED.sub(_GLUE, text),
        width,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    )
    return "\n".join(lines).replace(_GLUE, " ")


def _fitted(columns: Sequence[str], rows: Cells, width: int) -> Cells | None:
    """Return the rows with their long texts wrapped so that all fits into `width`; None where it can't."""
    natural = [max(map(cell_len, (name, *(row[i] for row in rows)))) for i, name in enumerate(columns)]
    spare = width - sum(natural) - _CELL_FRAME * len(columns) - 1
    if spare >= 0:
        return rows
    widest = max(range(len(columns)), key=lambda i: natural[i])
    room = natural[widest] + spare
    if room < _PROSE_COLUMNS:
        return None
    cells = [[*row[:widest], wrapped(row[widest], room), *row[widest + 1 :]] for row in rows]
    if any(cell_len(line) > room for row in cells for line in row[widest].split("\n")):
        return None  # a path, say
    return cells


def _print_list(out: Console, columns: Sequence[str], rows: Cells) -> None:
    for number, row in enumerate(rows):
        if number:
            out.print()
        head, fields = _split(columns, row)
        out.print(Text(wrapped(head, out.width, indent=_INDENT), style="bold"), soft_wrap=True)
        for line in _fields(fields, out.width):
            out.print(Text(line), soft_wrap=True)


def _split(columns: Sequence[str], row: Sequence[str]) -> tuple[str, list[tuple[str, str]]]:
    """Return a row's heading, its first cell and those without a name, and the other cells that are not empty."""
    named = [i for i, name in enumerate(columns) if name]
    head = [row[i] for i in range(len(columns)) if row[i] and (i == named[0] or i not in named)]
    return "  ".join(head), [(columns[i], row[i]) for i in named[1:] if row[i]]


def _fields(fields: Sequence[tuple[str, str]], width: int) -> Iterator[str]:
    names = max((cell_len(name) for name, _ in fields), default=0)
    for name, text in fields:
        indent = _INDENT + " " * (names + 2)
        first, *others = wrapped(text, max(width - len(indent), 1)).split("\n")
        yield f"{_INDENT}{name}{' ' * (names + 2 - cell_len(name))}{first}"
        for line in others:
            yield indent + line
