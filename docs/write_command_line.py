"""Writes the reference of the command line from the commands themselves.

    python docs/write_command_line.py           prints it
    python docs/write_command_line.py --write   puts it into docs/command-line.md

Only what the commands declare is used, and not click's own layout, which differs between its versions. A test compares
the page with what this prints.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from ckptd.cli.main import GROUPS, cli

PAGE = Path(__file__).with_name("command-line.md")

_HEAD = """\
# Command line

<!-- written by docs/write_command_line.py; change the command's own help instead -->

Every command explains itself with `--help`. A *PREFIX* is what a checkpoint's files share,
`runs/mnist/model.ckpt-1200`; it may be typed as the shell completes it, `.index` and all. A *DIR* is a directory with
checkpoints in it. Both may be paths or URLs of a store, or name a run of a daemon: `--address ADDR` reads through that
daemon, so no access to its files is needed, and with `CKPTD_ADDRESS` so does a relative path that is not here. Answers
go to stdout, diagnostics to stderr; `--json` prints one document for programs. The
[exit codes](operations.md#exit-codes) are the same for every command.
"""


def page() -> str:
    """Return the whole page."""
    ctx = click.Context(cli, info_name="ckptd")
    return "\n".join([_HEAD, "## ckptd\n", *_body(cli, ctx), *_commands(cli, ctx)])


def _commands(group: click.Group, ctx: click.Context) -> Iterator[str]:
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        assert command is not None
        if command.hidden:
            continue
        inner = click.Context(command, info_name=name, parent=ctx)
        yield f"## {inner.command_path}\n"
        yield from _body(command, inner)
        if isinstance(command, click.Group):
            yield from _commands(command, inner)


def _body(command: click.Command, ctx: click.Context) -> Iterator[str]:
    arguments = [_argument(one) for one in command.params if isinstance(one, click.Argument)]
    tail = ["COMMAND …"] if isinstance(command, click.Group) else arguments
    yield "```text\n" + " ".join([ctx.command_path, "[OPTIONS]", *tail]) + "\n```\n"
    yield from _prose(command.help or "")
    rows = [
        _row(one) for one in command.params if isinstance(one, click.Option) and not one.hidden
    ]
    if rows:
        yield "| option | what it does |\n|---|---|\n" + "".join(rows)
    if isinstance(command, click.Group):
        subcommands = {
            name: command.get_command(ctx, name) for name in command.list_commands(ctx)
        }
        shown = [
            name for name, one in subcommands.items() if one is not None and not one.hidden
        ]
        groups = GROUPS if command is cli else {"Commands": shown}
        for title, names in groups.items():
            links = (f"{ctx.command_path} {name}" for name in names if name in shown)
            yield (
                f"{title}: "
                + ", ".join(f"[`{name}`](#{name.replace(' ', '-')})" for name in links)
                + ".\n"
            )
    elif command.epilog:
        yield from _prose(command.epilog)


def _argument(argument: click.Argument) -> str:
    shown = argument.metavar or (argument.name or "").upper()
    if argument.metavar:
        return shown  # says by itself whether it may be left out or repeated
    shown += "…" if argument.nargs != 1 else ""
    return shown if argument.required else f"[{shown}]"


def _row(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    takes = "" if option.is_flag or option.count else f" `{_metavar(option)}`"
    words = [option.help or ""]
    if option.show_default and not option.is_flag:
        words.append(f"[default: {option.default}]")
    if option.required:
        words.append("[required]")
    if option.multiple and "repeat" not in words[0]:
        words.append("May be repeated.")
    return f"| {names}{takes} | {_cell(' '.join(filter(None, words)))} |\n"


def _metavar(option: click.Option) -> str:
    if option.metavar:
        return option.metavar.replace(
            "|", " or "
        )  # a bar would end the table's cell, even between backticks
    if isinstance(option.type, click.Choice):
        return "` or `".join(str(choice) for choice in option.type.choices)
    return option.type.name.upper().replace(" RANGE", "")


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;")


def _prose(text: str) -> Iterator[str]:
    """Yield the paragraphs of a help text; what click is told not to wrap (``\\b``) becomes a block of code."""
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        if "\b" in paragraph:
            lines = [line.rstrip() for line in paragraph.split("\n") if line.strip(" \b")]
            left = min((len(line) - len(line.lstrip()) for line in lines), default=0)
            yield "```text\n" + "\n".join(line[left:] for line in lines) + "\n```\n"
        elif paragraph.strip():
            yield re.sub(r"\s+", " ", paragraph.strip()).replace("<", "&lt;") + "\n"


def main() -> None:
    """Print the page, or write it."""
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        sys.stdout.write(page())


if __name__ == "__main__":
    main()
