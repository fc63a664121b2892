"""How far a command is: a bar for people, JSON lines for scripts (``--progress json``), both on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from ckptd.cli import output

_Command = TypeVar("_Command", bound=Callable[..., Any])


def option(command: _Command) -> _Command:
    """Give a command the option `--progress`, which it gets as `progress`."""
    return click.option(
        "--progress",
        type=click.Choice(["auto", "json", "none"]),
        default="auto",
        show_default=True,
        help="A bar if stderr is a terminal; one JSON object per line on stderr; nothing.",
    )(command)


@contextmanager
def shown(label: str, how: str) -> Iterator[output.Progressed]:
    """Show progress as the option says while the block runs; yield what moves it on."""
    if how == "auto":
        with output.progress(label) as progressed:
            yield progressed
    elif how == "json":
        yield _lines(label)
    else:
        yield lambda _done, _total: None


def _lines(label: str) -> output.Progressed:
    """Return what prints a line whenever another hundredth is done."""
    told = -1

    def progressed(done_bytes: int, total_bytes: int, /) -> None:
        nonlocal told
        hundredth = 100 * done_bytes // total_bytes if total_bytes else 100
        if hundredth > told:
            told = hundredth
            line = {"event": "progress", "label": label, "done_bytes": done_bytes, "total_bytes": total_bytes}
            print(json.dumps(line), file=sys.stderr, flush=True)  # noqa: T201

    return progressed
