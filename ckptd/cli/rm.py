"""`ckptd rm`: delete one checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ckptd.cli import output
from ckptd.cli.keepers import Reach, reach_options
from ckptd.errors import InvalidRequestError, NotFoundError

if TYPE_CHECKING:
    from ckptd.engine.checkpoint import Checkpoint
    from ckptd.storage.base import Store


@click.command()
@click.argument("prefix")
@click.option("--even-latest", is_flag=True, help="Delete it also if it is the latest: the one before becomes it.")
@click.option("--foreign", is_flag=True, help="Delete it also if ckptd did not write it.")
@click.option("--for-good", is_flag=True, help="Free its space at once; it cannot be brought back.")
@reach_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    prefix: str,
    even_latest: bool,
    foreign: bool,
    for_good: bool,
    how: Reach,
    as_json: bool,
) -> None:
    """Delete the checkpoint at PREFIX: from the state file first, then its index, then its shards.

    Pinned ones, the latest, and those that ckptd did not write are refused; flags permit the last two. A running daemon
    deletes it itself.
    """
    from ckptd.cli import keepers, places
    from ckptd.engine.catalog.survey import latest_checkpoint, list_checkpoints

    named = keepers.look(prefix, how)
    if named.is_directory and named.is_there:
        raise InvalidRequestError(f"{prefix!r} is a directory: name the one checkpoint, or use `ckptd prune`")
    store, key = places.checkpoint(named)
    with keepers.keeper(store, how) as keeper:
        checkpoint = _described(store, key)
        keeper.delete(key, even_latest=even_latest, even_foreign=foreign, for_good=for_good)
        can_undo = keeper.can_undo and not for_good
        is_orphaned = even_latest and latest_checkpoint(store, "") is None and bool(list_checkpoints(store, ""))
    if as_json:
        output.emit_json(checkpoint)
    else:
        output.tell(f"deleted {store.location(key)}, {output.size(checkpoint.size_bytes)}")
        if can_undo:
            output.note(
                "`ckptd undelete` brings it back for a while, the daemon's --undo-s, and only then its space is free; "
                "--for-good frees it at once"
            )
    if is_orphaned:
        output.note(f"careful: no checkpoint in {store.url} is the latest now: the state file listed no other one")


def _described(store: Store, key: str) -> Checkpoint:
    """Describe what is about to be deleted. What a daemon serves is not read: that would keep it from being deleted."""
    from ckptd.cli.places import Served
    from ckptd.engine.catalog.survey import describe, records_by_prefix
    from ckptd.format.names import index_key

    if isinstance(store, Served):
        for each in store.checkpoints():
            if each.prefix.rpartition("/")[2] == key:
                return each
        raise NotFoundError(f"there is no checkpoint {key!r} in {store.url} any more")
    return describe(store, store.stat(index_key(key)), records_by_prefix(store, "").get(key, []))[0]
