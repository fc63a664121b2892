"""`ckptd pin`: keep a checkpoint whatever retention says."""

from __future__ import annotations

import click

from ckptd.cli import output
from ckptd.cli.keepers import Reach, reach_options


@click.command()
@click.argument("prefix")
@reach_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(prefix: str, how: Reach, as_json: bool) -> None:
    """Keep the checkpoint at PREFIX whatever retention says, until `ckptd unpin`.

    A running daemon does it; without one, it is noted in the run's directory.
    """
    set_pinned(prefix, True, how, as_json)


def set_pinned(
    prefix: str,
    pinned: bool,
    how: Reach,
    as_json: bool,
) -> None:
    """Pin or unpin, and say so."""
    from ckptd.cli import keepers, places

    store, key = places.checkpoint(keepers.look(prefix, how))
    with keepers.keeper(store, how) as keeper:
        checkpoint = keeper.set_pinned(key, pinned)
    if as_json:
        output.emit_json(checkpoint)
    else:
        output.tell(f"{checkpoint.prefix} is {'pinned' if pinned else 'no longer pinned'}")
