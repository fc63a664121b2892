"""The progress of a command: a bar for people, JSON lines for scripts (``--progress json``), both on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Column

from ckptd.cli import output
from ckptd.printable import printable

_Command = TypeVar("_Command", bound=Callable[..., Any])

_WIDE = 80  # columns

Progressed = Callable[[int, int], None]
"""Called with the bytes done so far, and the total."""


def option(command: _Command) -> _Command:
    """Add the option `--progress` to a command, which gets it as `progress`."""
    return click.option(
        "--progress",
        type=click.Choice(["auto", "json", "none"]),
        default="auto",
        show_default=True,
        help="A bar if stderr is a terminal; one JSON object per line on stderr; nothing.",
    )(command)


@contextmanager
def shown(label: str, how: str = "auto") -> Iterator[Progressed]:
    """Show progress as the option says while the block runs; yield the function that updates it."""
    if how == "json":
        yield _lines(label)
    elif how == "auto" and sys.stderr.isatty():
        with _bar(label) as progressed:
            yield progressed
    else:
        yield lambda _done, _total: None


@contextmanager
def _bar(label: str) -> Iterator[Progressed]:
    console = output.console(stderr=True)

    def whole() -> Column:
        return Column(no_wrap=True)

    # A narrow terminal shows the figures without speed and time.
    more = (TransferSpeedColumn(whole()), TimeRemainingColumn(table_column=whole()))
    bar = Progress(
        TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")),
        BarColumn(40 if console.width >= _WIDE else 10),
        DownloadColumn(table_column=whole()),
        *(more if console.width >= _WIDE else ()),
        console=console,
        transient=True,
    )
    with bar:
        task = bar.add_task(escape(printable(label)), total=None)

        def progressed(done_bytes: int, total_bytes: int, /) -> None:
            bar.update(task, completed=done_bytes, total=total_bytes)

        yield progressed


def _lines(label: str) -> Progressed:
    """Return a function that prints a line whenever another hundredth is done."""
    told = -1

    def progressed(done_bytes: int, total_bytes: int, /) -> None:
        nonlocal told
        hundredth = 100 * done_bytes // total_bytes if total_bytes else 100
        if hundredth > told:
            told = hundredth
            line = {
                "event": "progress",
                "label": label,
                "done_bytes": done_bytes,
                "total_bytes": total_bytes,
            }
            print(output.json_text(line), file=sys.stderr, flush=True)  # noqa: T201

    return progressed
