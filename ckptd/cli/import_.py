"""`ckptd import`: write a safetensors or npz file as a checkpoint."""

from __future__ import annotations

import click

from ckptd.cli import output
from ckptd.cli import progress as progress_bars
from ckptd.printable import counted


@click.command(name="import")
@click.argument("file")
@click.argument("prefix")
@click.option("--num-shards", type=click.IntRange(1), default=1, metavar="N", help="Write at most N shards.")
@click.option("--publish", is_flag=True, help="Let the state file beside the checkpoint name it as the latest.")
@click.option("--skip-unsupported", is_flag=True, help="Leave out tensors whose dtype a checkpoint does not have.")
@click.option(
    "--force", is_flag=True, help="Replace an existing checkpoint; one of the two is complete at every moment."
)
@progress_bars.option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    file: str,
    prefix: str,
    num_shards: int,
    publish: bool,
    skip_unsupported: bool,
    force: bool,
    progress: str,
    as_json: bool,
) -> None:
    """Write the tensors of FILE, in the safetensors or npz format, as the checkpoint PREFIX.

    The checkpoint is complete and durable, or there is none; memory does not grow with it. Nothing is ever unpickled.

    \b
    Examples:
      ckptd import model.safetensors runs/mnist/model.ckpt-0
      ckptd import weights.npz /tmp/weights --num-shards 4
    """
    from ckptd.cli import places, sources
    from ckptd.engine.offline.placing import announce
    from ckptd.interchange.importing import import_checkpoint
    from ckptd.storage.locations import split_prefix

    source = sources.file(places.Named(file, *split_prefix(file)))
    store, key = sources.destination(prefix)
    with sources.unowned(store, publish):
        with progress_bars.shown(f"importing {file.rpartition('/')[2]}", progress) as progressed:
            done = import_checkpoint(
                source,
                store,
                key,
                num_shards=num_shards,
                skip_unsupported=skip_unsupported,
                overwrite=force,
                progress=progressed,
            )
        if publish:
            announce(store, key, done.checkpoint.saved_at)
    if as_json:
        output.emit_json(
            {
                "file": source.location,
                "checkpoint": done.checkpoint,
                "tensors": done.imported,
                "skipped": done.skipped,
                "published": publish,
            }
        )
        return
    made = done.checkpoint
    what, shards = counted(len(done.imported), "tensor"), counted(made.num_shards, "shard")
    output.tell(f"{made.prefix}: {what}, {output.size(made.size_bytes)} in {shards}")
    if publish:
        output.tell("the state file names it as the latest")
    for name in done.skipped:
        output.note(f"left out: {name} ({source.facts(name).dtype_name}), which a checkpoint cannot hold")
