"""`ckptd repair`: rebuild a lost or malformed state file, and repair whatever else keeps a run from being opened."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from ckptd.cli import output
from ckptd.cli.keepers import Reach, reach_options
from ckptd.cli.places import Served
from ckptd.errors import ConflictError

if TYPE_CHECKING:
    from ckptd.engine.offline.repair import Repaired
    from ckptd.storage.base import Store


@click.command()
@click.argument("directory", metavar="DIR")
@click.option("--latest-filename", default="checkpoint", show_default=True, help="Name of the state file.")
@reach_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(directory: str, latest_filename: str, how: Reach, as_json: bool) -> None:
    """Make the state file of DIR name the complete checkpoints that are there, and only those.

    Needed when it is lost, cannot be read, or names what is gone, and when a damaged epoch or record keeps the run from
    being opened; where nothing is wrong, nothing is changed. What is replaced is kept under another name. Shards are
    looked for, not read: `ckptd verify` reads them. A running daemon does it itself, and then serves the run again.
    """
    from ckptd.cli import keepers

    store = keepers.directory(directory, how)
    repaired = _repaired(store, latest_filename, how)
    if as_json:
        output.emit_json(
            {
                "directory": store.url,
                "changed": repaired.is_changed,
                "reason": repaired.reason or None,
                "latest": repaired.prefixes[-1] if repaired.prefixes else None,
                "prefixes": repaired.prefixes,
                "left_out": [{"prefix": prefix, "reason": reason} for prefix, reason in repaired.left_out],
                "kept_at": repaired.kept_at,
                "mended": repaired.mended,
            }
        )
        return
    for prefix, reason in repaired.left_out:
        output.note(f"left out: {prefix}: {reason}")
    for what in repaired.mended:
        output.tell(f"mended: {what}")
    if not repaired.prefixes:
        output.tell("there is no complete checkpoint here, and no state file now: the next save makes one")
        return
    what = f"written anew, because {repaired.reason}" if repaired.reason else "correct: it was not changed"
    output.tell(f"{store.location(latest_filename)} is {what}")
    if repaired.kept_at is not None:
        output.tell(f"what it said before is in {repaired.kept_at}")
    output.tell(f"the latest of {len(repaired.prefixes)} is {repaired.prefixes[-1]}")


def _repaired(store: Store, latest_filename: str, how: Reach) -> Repaired:
    """Repair the directory that is `store`'s root, or have the daemon that owns it do so."""
    from ckptd.cli import keepers
    from ckptd.engine.offline import ownership
    from ckptd.engine.offline.repair import repair
    from ckptd.storage.lock_holder import LockHolder

    with ExitStack() as stack:
        address = store.address if isinstance(store, Served) else how.address
        if address is None:
            holder = LockHolder.here("ckptd repair").line
            try:
                stack.enter_context(ownership.roots_kept(store, holder, takes_over=how.takes_over))
            except ConflictError as error:
                address = keepers.address_of(error)
        if address is None:
            keepers.note_unrecorded()
            return repair(store, "", latest_filename, takes_over=how.takes_over)
        return keepers.repaired_by_daemon(store, address, how, latest_filename)
