"""`ckptd cp`: copy a checkpoint, and check it on the way."""

from __future__ import annotations

import click

from ckptd.cli import output, served
from ckptd.cli import progress as progress_bars
from ckptd.printable import counted


@click.command()
@click.argument("prefix")
@click.argument("dest", metavar="DEST")
@click.option("--num-shards", type=click.IntRange(1), metavar="N", help="Lay it out again, in at most N shards.")
@click.option("--publish", is_flag=True, help="Let the state file beside the copy name it as the latest.")
@click.option(
    "--force", is_flag=True, help="Replace an existing checkpoint; one of the two is complete at every moment."
)
@progress_bars.option
@served.option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    prefix: str,
    dest: str,
    num_shards: int | None,
    publish: bool,
    force: bool,
    progress: str,
    as_json: bool,
    daemon: served.ByDaemon,
) -> None:
    """Copy the checkpoint at PREFIX to the prefix DEST, or into the directory DEST under its own name.

    Every tensor is compared with its checksum on the way. The copy is complete and durable, or there is none.

    \b
    Examples:
      ckptd cp runs/mnist/model.ckpt-1200 /archive/best
      ckptd cp runs/mnist /archive/          # the latest, under its own name
      ckptd cp model.ckpt-1200 one --num-shards 1
    """
    from ckptd.cli import places, sources
    from ckptd.engine.offline.copying import copy_checkpoint

    source, source_key = places.checkpoint(served.look(prefix, daemon))
    store, key = sources.destination(dest, source_key)
    with sources.unowned(store, publish), progress_bars.shown(f"copying {source_key}", progress) as progressed:
        copied = copy_checkpoint(
            source,
            source_key,
            store,
            key,
            num_shards=num_shards,
            overwrite=force,
            publish=publish,
            progress=progressed,
        )
    if as_json:
        output.emit_json({"source": source.location(source_key), "checkpoint": copied, "published": publish})
        return
    shards = counted(copied.num_shards, "shard")
    output.tell(f"{copied.prefix}: {output.size(copied.size_bytes)} in {shards}, every checksum verified")
    if publish:
        output.tell("the state file names it as the latest")
