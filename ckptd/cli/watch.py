"""`ckptd watch`: report each new checkpoint, and run a command for it."""

from __future__ import annotations

import signal
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ckptd.cli import daemons, output
from ckptd.cli.running import Command, Terminated, terminating
from ckptd.errors import InvalidRequestError, UnavailableError

if TYPE_CHECKING:
    from ckptd.engine.checkpoint import Checkpoint


@click.command("watch")
@click.argument("place", metavar="[DIR|ADDR]", required=False)
@click.option("--run", metavar="RUN", help="The run, below DIR or the daemon's root; a daemon needs one.")
@click.option("--exec", "command_line", metavar="CMD", help="Run CMD for each, with CKPTD_PREFIX and CKPTD_STEP set.")
@click.option("--stop-on-failure", is_flag=True, help="End with CMD's exit code as soon as it is not 0.")
@click.option("--once", is_flag=True, help="End after the first one; with CMD's exit code if there is a CMD.")
@click.option("--after", metavar="STEP", type=click.IntRange(min=0), help="Ignore steps up to this one.")
@click.option(
    "--timeout", "timeout_s", metavar="S", type=click.FloatRange(min=0), help="End when none comes for S seconds."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line; what CMD prints goes to stderr.")
@click.option(
    "--poll",
    "poll_s",
    metavar="S",
    type=click.FloatRange(min=0.01),
    help="Look at DIR every S seconds instead of waiting for events.",
)
@click.option("--latest-filename", default="checkpoint", show_default=True, help="Name of DIR's state file.")
@daemons.identity_options
def command(
    place: str | None,
    run: str | None,
    command_line: str | None,
    stop_on_failure: bool,
    once: bool,
    after: int | None,
    timeout_s: float | None,
    as_json: bool,
    poll_s: float | None,
    latest_filename: str,
    identity: daemons.Identity,
) -> int:
    """Print the newest checkpoint, then each newer one as soon as it is durable; the newest is never missed.

    DIR is a run's directory, which need not be there yet; ADDR is a daemon's. With --exec, a checkpoint that comes
    while CMD runs is handled when CMD has ended; of several, the newest.
    """
    from ckptd.client.following import follow

    place, run = _meant(place, run)
    news = follow(
        place,
        run,
        timeout_s=timeout_s,
        latest_filename=latest_filename,
        poll_s=poll_s,
        token=identity.token(),
        ca=identity.ca,
        cert=identity.cert,
        key=identity.key,
    )
    missing = _missing_directory(place)
    if missing is not None:
        output.note(f"there is no directory {missing!r} yet; waiting for it")
    elif sys.stderr.isatty():
        output.note(f"watching {run or ''}{' on ' if run else ''}{place}; Ctrl-C ends it")
    runner = None if command_line is None else Command(command_line, output_to_stderr=as_json)
    num_told = 0
    try:
        with terminating(), closing(news):
            for checkpoint in news:
                if after is not None and (checkpoint.step or 0) <= after:
                    continue
                num_told += 1
                _tell(checkpoint, as_json)
                code = 0 if runner is None else runner.run(checkpoint)
                if once or (code and stop_on_failure):
                    return code
                if code:
                    output.note(f"ckptd: the command ended with exit code {code} for {checkpoint.prefix}; going on")
    except Terminated:
        output.note("ckptd: terminated")
        return 128 + signal.SIGTERM
    if not num_told:
        raise UnavailableError(f"no checkpoint came from {place} within {timeout_s:g} s")
    return 0


def _meant(place: str | None, run: str | None) -> tuple[str, str | None]:
    """Return what is to be watched; without a place it is the environment's, or the daemon of this host."""
    if place is not None:
        from ckptd.client.paths.environment import or_local

        return or_local(place), run
    if run is None:
        raise InvalidRequestError("say what to watch: a directory, or a daemon's run with --run RUN")
    from ckptd.client.paths.environment import address_or_local

    return address_or_local(None), run


def _missing_directory(place: str) -> str | None:
    """Return the path of a directory that is to be watched but does not exist: it may be misspelt."""
    from ckptd.storage.capabilities import local_path
    from ckptd.storage.locations import is_url, open_store
    from ckptd.wire import addresses

    if addresses.is_daemon(place) or (is_url(place) and not place.startswith("file:")):
        return None
    path = local_path(open_store(place, confined=False))
    return path if path is not None and not Path(path).exists() else None


def _tell(checkpoint: Checkpoint, as_json: bool) -> None:
    """Print one line, at once, to a terminal or a pipe."""
    if as_json:
        output.say(output.json_text(checkpoint))
    else:
        step = "no step" if checkpoint.step is None else f"step {checkpoint.step}"
        output.tell(
            f"{output.moment(checkpoint.saved_at)}  {step}  {output.size(checkpoint.size_bytes)}  {checkpoint.prefix}"
            + (f"  (rolled back: {checkpoint.rolled_back})" if checkpoint.rolled_back else "")
        )
    sys.stdout.flush()
