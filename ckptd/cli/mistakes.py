"""Errors of command lines, in one line: what is wrong, what may have been meant, and where to read more."""

from __future__ import annotations

from difflib import get_close_matches

import click

_NO_ARGUMENTS: type[click.ClickException] | None = getattr(click.exceptions, "NoArgsIsHelpError", None)


def is_call_for_help(error: click.ClickException) -> bool:
    """Say whether nothing at all was typed after the command: then its help is the answer."""
    return _NO_ARGUMENTS is not None and isinstance(error, _NO_ARGUMENTS)


def line_for(error: click.ClickException) -> str:
    """Return the line that answers a wrong command line."""
    where = "ckptd"
    if isinstance(error, click.UsageError) and error.ctx is not None:
        where = error.ctx.command_path
    # Click breaks some messages into several lines and ends most with a full stop.
    text = " ".join(_message(error).split()).rstrip(".")
    return f"{where}: {text[:1].lower() + text[1:] if _begins_a_sentence(text) else text}; see {where} --help"


def _message(error: click.ClickException) -> str:
    if isinstance(error, click.NoSuchOption):
        possible = sorted(error.possibilities or ())
        near = get_close_matches(error.option_name, possible, n=1, cutoff=0.7) or possible[:3]
        meant = " or ".join(f"'{option}'" for option in near)
        return f"there is no option '{error.option_name}'" + (f"; did you mean {meant}?" if meant else "")
    if isinstance(error, click.MissingParameter):
        return error.format_message().replace("Missing", "missing", 1)
    return error.format_message()


def _begins_a_sentence(text: str) -> bool:
    return len(text) > 1 and text[0].isupper() and text[1].islower()
