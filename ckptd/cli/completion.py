"""`ckptd completion`: the scripts with which a shell completes our command lines, and the answers to its requests."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import click
from click.shell_completion import BashComplete, CompletionItem, get_completion_class, shell_complete

from ckptd.cli import output

VARIABLE = "_CKPTD_COMPLETE"
_SHELLS = ("bash", "zsh", "fish")
_MOST_SHOWN = 2000
_PREFIX_ARGUMENTS = ("prefix", "place", "directory", "first", "second", "source", "destination")


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the script with which SHELL completes commands, options, checkpoints and the names of tensors.

    Put one of the lines below in your shell's start-up file, or save the output where the shell reads completions.
    """
    kind = get_completion_class(shell)
    assert kind is not None  # the choices are click's own
    found = kind(ctx.find_root().command, {}, "ckptd", VARIABLE)
    # Click would check the version of bash on this host; the text is the same for all versions that it supports.
    text = found.source_template % found.source_vars() if isinstance(found, BashComplete) else found.source()
    output.say(text.rstrip("\n"), lines=True)


def answer(cli: click.Command, environ: Mapping[str, str]) -> int:
    """Answer a shell's request, in an environment variable, for completions of a command line; return the exit code."""
    return shell_complete(cli, {}, "ckptd", VARIABLE, environ[VARIABLE])


def teach(command: click.Command) -> None:
    """Let the arguments of a command complete to checkpoints, directories and tensors. Safe to repeat."""
    for parameter in command.params:
        if not isinstance(parameter, click.Argument) or not isinstance(parameter.type, click.types.StringParamType):
            continue
        if parameter.name in _PREFIX_ARGUMENTS:
            parameter._custom_shell_complete = complete_place
        elif parameter.name == "names":
            parameter._custom_shell_complete = complete_tensor


def complete_place(ctx: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """Complete a path to the directories and the checkpoints that begin like it."""
    directory, _, beginning = typed.rpartition("/")
    base = directory + "/" if "/" in typed else ""
    found: dict[str, str] = {}
    try:
        with os.scandir(base or ".") as entries:
            for entry in islice(entries, 10 * _MOST_SHOWN):
                if not entry.name.startswith(beginning) or (entry.name.startswith(".") and not beginning):
                    continue
                if not entry.name.isprintable():
                    continue  # a shell would print it raw
                if entry.is_dir():
                    found[f"{base}{entry.name}/"] = "directory"
                elif entry.name.endswith(".index") and parameter.name != "directory":
                    found[base + entry.name.removesuffix(".index")] = "checkpoint"
    except OSError:
        return []
    return [CompletionItem(text, help=kind) for text, kind in islice(sorted(found.items()), _MOST_SHOWN)]


def complete_tensor(ctx: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """Complete the name of a tensor of the checkpoint that the command line names before it."""
    place: Any = ctx.params.get("prefix")
    if not isinstance(place, str) or not Path(place).parent.is_dir():
        return []
    from ckptd.cli import places
    from ckptd.errors import CkptdError

    try:
        with contextlib.redirect_stderr(io.StringIO()):  # messages for people would land in their command line
            _, bundle = places.bundle(places.look(place))
    except CkptdError:
        return []
    names = (name for name in bundle.names() if name.startswith(typed) and name.isprintable())
    return [CompletionItem(name) for name in islice(names, _MOST_SHOWN)]
