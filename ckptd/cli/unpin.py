"""`ckptd unpin`: let retention delete a checkpoint again."""

from __future__ import annotations

import click

from ckptd.cli.keepers import Reach, reach_options
from ckptd.cli.pin import set_pinned


@click.command()
@click.argument("prefix")
@reach_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(prefix: str, how: Reach, as_json: bool) -> None:
    """Let retention delete the checkpoint at PREFIX again. One that was kept for good stays kept."""
    set_pinned(prefix, False, how, as_json)
