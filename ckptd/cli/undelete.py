"""`ckptd undelete`: bring back a checkpoint that was deleted lately."""

from __future__ import annotations

import click

from ckptd.cli import output
from ckptd.cli.keepers import Reach, reach_options


@click.command()
@click.argument("prefix")
@reach_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(prefix: str, how: Reach, as_json: bool) -> None:
    """Bring back the checkpoint at PREFIX, which a daemon or a training program deleted a few minutes ago.

    The daemon's --undo-s sets for how long that is possible. It is listed again at its old place, or kept for good if
    its place was taken since. If an identity that may only save has saved the step again, the two change places. What
    `ckptd rm` deleted without a daemon is gone for good.
    """
    from ckptd.cli import keepers

    store, key = keepers.absent(prefix, how)
    with keepers.keeper(store, how) as keeper:
        checkpoint = keeper.undelete(key)
    if as_json:
        output.emit_json(checkpoint)
    else:
        output.tell(f"{checkpoint.prefix} is back")
