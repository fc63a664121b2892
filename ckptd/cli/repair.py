"""`ckptd repair`: write a lost or malformed state file anew."""

from __future__ import annotations

import os
import socket

import click

from ckptd.cli import output


@click.command()
@click.argument("directory", metavar="DIR")
@click.option("--latest-filename", default="checkpoint", show_default=True, help="Name of the state file.")
@click.option("--take-over", "takes_over", is_flag=True, help="In a bucket: go on though an owner may live elsewhere.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(directory: str, latest_filename: str, takes_over: bool, as_json: bool) -> None:
    """Make the state file of DIR name the complete checkpoints that are there, and only those.

    Needed when it is lost, cannot be read, or names what is gone; where nothing is wrong, nothing is changed. The text
    that is replaced is kept. Shards are looked for, not read: `ckptd verify` reads them.
    """
    from ckptd.cli import places
    from ckptd.engine import ownership
    from ckptd.engine.repair import repair

    store = places.directory(directory)
    holder = f"ckptd repair, pid {os.getpid()} on {socket.gethostname()}"
    with ownership.roots_kept(store, holder, takes_over=takes_over):
        repaired = repair(store, "", latest_filename, takes_over=takes_over)
    if as_json:
        output.emit_json(
            {
                "directory": store.url,
                "changed": repaired.is_changed,
                "reason": repaired.reason or None,
                "latest": repaired.prefixes[-1],
                "prefixes": repaired.prefixes,
                "left_out": [{"prefix": prefix, "reason": reason} for prefix, reason in repaired.left_out],
                "kept_at": repaired.kept_at,
            }
        )
        return
    for prefix, reason in repaired.left_out:
        output.note(f"left out: {prefix}: {reason}")
    what = f"written anew, because {repaired.reason}" if repaired.is_changed else "as it should be: nothing was changed"
    output.say(f"{store.location(latest_filename)} is {what}")
    if repaired.kept_at is not None:
        output.say(f"what it said before is in {repaired.kept_at}")
    output.say(f"the latest of {len(repaired.prefixes)} is {repaired.prefixes[-1]}")
