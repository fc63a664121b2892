"""`ckptd`: the command group, and the one place where errors become messages and exit codes.

Commands are imported only when they are used, so that `ckptd --help` does not wait for numpy and gRPC.
A command is a module of this room that exports `command`; it raises `CkptdError` and never exits by itself.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import click

from ckptd.cli import completion, examples, mistakes, output
from ckptd.errors import CkptdError, NotPermittedError, StorageFullError

BUG_EXIT_CODE = 1
USAGE_EXIT_CODE = 2
INTERRUPTED_EXIT_CODE = 130


@dataclass(frozen=True, slots=True)
class Listed:
    """A command as `--help` shows it, without importing it."""

    module: str
    summary: str


GROUPS: dict[str, dict[str, Listed]] = {
    "Start here": {
        "demo": Listed("ckptd.cli.demo", "Train, kill a worker amid a save, and recover: all of it in action."),
        "run": Listed("ckptd.cli.run", "Run a command that trains, with the daemons that it saves through."),
        "ls": Listed("ckptd.cli.ls", "List the checkpoints in a directory."),
    },
    "Run a daemon, and see what it does": {
        "serve": Listed("ckptd.cli.serve", "Run the daemon."),
        "status": Listed("ckptd.cli.status", "Show what a daemon is doing."),
        "open": Listed("ckptd.cli.open_", "Show a daemon's page in the browser."),
        "history": Listed("ckptd.cli.history", "List past saves: outcome, stall, what held them up."),
        "health": Listed("ckptd.cli.health", "Check whether a daemon takes saves, by exit code."),
        "evict": Listed("ckptd.cli.evict", "Free the place that a hung process holds in a run."),
    },
    "Look into checkpoints": {
        "show": Listed("ckptd.cli.show", "Describe a checkpoint: its tensors and its shards."),
        "cat": Listed("ckptd.cli.cat", "Print the values of tensors."),
        "ui": Listed("ckptd.cli.ui", "Open a page over a directory or bucket of checkpoints, in a browser."),
        "latest": Listed("ckptd.cli.latest", "Print the prefix of the newest checkpoint."),
        "watch": Listed("ckptd.cli.watch", "Report each new checkpoint, and run a command for it."),
        "verify": Listed("ckptd.cli.verify", "Read everything back and check it."),
        "diff": Listed("ckptd.cli.diff", "Compare two checkpoints, or files: what changed, and by how much."),
        "inspect": Listed("ckptd.cli.inspect_", "Print what TensorFlow's inspect_checkpoint prints."),
    },
    "Copy and convert": {
        "cp": Listed("ckptd.cli.cp", "Copy a checkpoint, checked on the way, perhaps in other shards."),
        "export": Listed("ckptd.cli.export", "Write a checkpoint as a safetensors or npz file."),
        "import": Listed("ckptd.cli.import_", "Write a safetensors or npz file as a checkpoint."),
        "freeze": Listed("ckptd.cli.freeze", "Write a graph and its checkpoint as one file, for TensorFlow."),
    },
    "Keep and delete": {
        "prune": Listed("ckptd.cli.prune", "Delete what newer checkpoints supersede, or say what would go."),
        "pin": Listed("ckptd.cli.pin", "Keep a checkpoint whatever retention says."),
        "unpin": Listed("ckptd.cli.unpin", "Undo a pin: retention counts the checkpoint again."),
        "rm": Listed("ckptd.cli.rm", "Delete one checkpoint."),
        "undelete": Listed("ckptd.cli.undelete", "Bring back a recently deleted checkpoint."),
        "repair": Listed("ckptd.cli.repair", "Rebuild a lost or malformed state file."),
    },
    "Identities": {
        "token": Listed("ckptd.cli.token", "Make, list and revoke the tokens of a daemon."),
        "policy": Listed("ckptd.cli.policy", "Check the policy of a daemon, and print its rights by identity."),
        "certs": Listed("ckptd.cli.certs", "Make certificates: an authority, the daemon's, and clients'."),
    },
    "Test a place, and help": {
        "doctor": Listed("ckptd.cli.doctor", "Test whether checkpoints are safe in a directory or bucket."),
        "bench": Listed("ckptd.cli.bench", "Measure disk and memory, saves and restores, and what bounds them."),
        "completion": Listed("ckptd.cli.completion", "Print the script with which a shell completes command lines."),
        "schema": Listed("ckptd.cli.schema", "Print the JSON Schema of a command's --json."),
    },
}
"""The commands by what they are for, in the order in which people need them."""

COMMANDS = {name: listed for group in GROUPS.values() for name, listed in group.items()}


class LazyGroup(click.Group):
    """A group whose commands are modules, imported at their first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which people need them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; every one of them takes `--debug`, also behind its name."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[cmd_name].module).command
        assert isinstance(command, click.Command)
        for one in (command, *(command.commands.values() if isinstance(command, click.Group) else ())):
            if not any("--debug" in parameter.opts for parameter in one.params):
                one.params.append(_debug_option())
        examples.add_to(cmd_name, command)
        completion.teach(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that `args` begin with; for a wrong name, say which one may be meant."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            near = get_close_matches(args[0], COMMANDS, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; there are: {', '.join(COMMANDS)}"
            raise click.UsageError(f"there is no command '{args[0]}'{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from their table, without importing one; each summary begins in the same column."""
        width = max(map(len, COMMANDS))
        for title, group in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), listed.summary) for name, listed in group.items()])


def _debug_option() -> click.Option:
    def remember(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
        if value:
            ctx.find_root().meta["ckptd.debug"] = True

    return click.Option(
        ["--debug"], is_flag=True, expose_value=False, callback=remember, help="Show the traceback of an error."
    )


def _version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from ckptd.wire.versions import VERSION

        output.say(f"ckptd {VERSION}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 our bug, 2 wrong usage, 3 not found, 4 conflict, 5 save aborted, 6 unavailable, "
    "7 storage full, 8 corrupt, 9 not permitted. Start with: ckptd demo",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
def cli() -> None:
    """Checkpoints for training on many processes, in TensorFlow's own format."""


cli.params.append(_debug_option())


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; messages have been written to stderr."""
    debug = bool(os.environ.get("CKPTD_DEBUG"))
    meta: dict[str, object] = {}
    try:
        with cli.make_context("ckptd", list(arguments)) as ctx:
            meta = ctx.meta
            result = cli.invoke(ctx)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as e:
        return e.exit_code
    except click.ClickException as e:
        if mistakes.is_call_for_help(e):
            e.show()
        else:
            output.note(mistakes.line_for(e))
        return e.exit_code
    except (click.Abort, KeyboardInterrupt):
        output.note("ckptd: interrupted")
        return INTERRUPTED_EXIT_CODE
    except CkptdError as e:
        if debug or meta.get("ckptd.debug"):
            output.note(traceback.format_exc().rstrip(), lines=True)
        _explain(e)
        return e.exit_code
    except PermissionError as e:
        if debug or meta.get("ckptd.debug"):
            traceback.print_exc()
        output.note(f"ckptd: {e.filename or 'a file'}: this user may not use it: {e.strerror}")
        return NotPermittedError.exit_code
    except BrokenPipeError:
        # The reader of our stdout has closed it (`ckptd ls | head`); Python would report that again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError as e:
        output.note(f"ckptd: there is not enough memory for this{f': {e}' if str(e) else ''}")
        return StorageFullError.exit_code
    except Exception as e:
        if debug or meta.get("ckptd.debug"):
            output.note(traceback.format_exc().rstrip(), lines=True)
        output.note(f"ckptd: this is a bug in ckptd: {type(e).__name__}: {e}")
        output.note("  run it again with --debug and report the traceback, please")
        return BUG_EXIT_CODE


def _explain(error: CkptdError) -> None:
    """Write the message of an error and its notes, one per line."""
    output.note(f"ckptd: {error}")
    for line in getattr(error, "__notes__", ()):
        output.note(f"  {line}")


def main() -> None:
    """The `ckptd` command: run what the arguments say and exit."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that can't show a character is no reason to fail
    # gRPC bypasses our log and `printable`, and prints text from the peer too: a peer could forge lines.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    if completion.VARIABLE in os.environ:
        sys.exit(completion.answer(cli, os.environ))
    sys.exit(run(sys.argv[1:]))
