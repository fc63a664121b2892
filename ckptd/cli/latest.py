"""`ckptd latest`: the prefix of the newest checkpoint, for scripts."""

from __future__ import annotations

import click

from ckptd.cli import output, served
from ckptd.errors import NotFoundError


@click.command()
@click.argument("directory", metavar="DIR")
@click.option("--latest-filename", default="checkpoint", show_default=True, help="Name of the state file.")
@served.option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(directory: str, latest_filename: str, as_json: bool, daemon: served.ByDaemon) -> None:
    """Print the prefix of the newest complete checkpoint in DIR, from its state file; exit code 3 if there is none.

    Use it in scripts: ckptd show $(ckptd latest DIR)
    """
    from ckptd.cli import places
    from ckptd.engine.catalog import survey

    if (run := served.directory(directory, daemon)) is not None:
        found = run.latest()
        elsewhere = f" by the daemon at {run.address}"
    else:
        store = places.directory(directory)
        found = survey.latest_checkpoint(store, "", latest_filename)
        elsewhere = "" if found else places.below(store)
    if found is None:
        raise NotFoundError(f"no checkpoint has been published in {directory!r}{elsewhere}")
    if as_json:
        output.emit_json(found)
    else:
        output.say(found.prefix)
