"""`ckptd latest`: the prefix of the newest checkpoint, for scripts."""

from __future__ import annotations

import click

from ckptd.cli import output
from ckptd.errors import NotFoundError


@click.command()
@click.argument("directory", metavar="DIR")
@click.option("--latest-filename", default="checkpoint", show_default=True, help="Name of the state file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(directory: str, latest_filename: str, as_json: bool) -> None:
    """Print the prefix of the newest complete checkpoint in DIR, from its state file; exit code 3 if there is none.

    Use it in scripts: ckptd show $(ckptd latest DIR)
    """
    from ckptd.cli import places
    from ckptd.engine.catalog import survey

    store = places.directory(directory)
    found = survey.latest_checkpoint(store, "", latest_filename)
    if found is None:
        raise NotFoundError(f"no checkpoint has been published in {directory!r}{places.below(store)}")
    if as_json:
        output.emit_json(found)
    else:
        output.say(found.prefix)
