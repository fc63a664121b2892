"""`ckptd export`: write a checkpoint as a safetensors or npz file."""

from __future__ import annotations

import click

from ckptd.cli import output, served
from ckptd.cli import progress as progress_bars
from ckptd.errors import InvalidRequestError
from ckptd.printable import counted


@click.command()
@click.argument("prefix")
@click.argument("file", metavar="FILE.safetensors|FILE.npz")
@click.option(
    "--only",
    "wanted",
    multiple=True,
    metavar="NAME",
    help="Only this tensor, or all that match 'model/*'; may be repeated.",
)
@click.option("--strip-prefix", metavar="PREFIX", default="", help="Remove PREFIX from the names in the file.")
@click.option("--skip-unsupported", is_flag=True, help="Leave out tensors that the format has no dtype for.")
@click.option("--metadata", multiple=True, metavar="KEY=TEXT", help="A text for the head of a safetensors file.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@progress_bars.option
@served.option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    prefix: str,
    file: str,
    wanted: tuple[str, ...],
    strip_prefix: str,
    skip_unsupported: bool,
    metadata: tuple[str, ...],
    force: bool,
    progress: str,
    as_json: bool,
    daemon: served.ByDaemon,
) -> None:
    """Write the tensors of the checkpoint at PREFIX to one file, whose name says in which format.

    Tensors in slices are joined, checksums are compared, and memory does not grow with the checkpoint. Strings, int4
    and a few others have no counterpart in these formats. The notes in which ckptd keeps how a framework's state nests
    are left out unless they are named.

    \b
    Examples:
      ckptd export runs/mnist/model.ckpt-1200 mnist.safetensors --metadata format=pt
      ckptd export runs/mnist mnist.npz --only w --only b
      ckptd export runs/mnist mnist.safetensors --only 'model/*' --strip-prefix model/
    """
    from ckptd.cli import places
    from ckptd.client.restoring.reader import check_names
    from ckptd.format.names import is_note
    from ckptd.interchange.bundle import BundleSource
    from ckptd.interchange.exporting import export, file_format
    from ckptd.interchange.selecting import Stripped, is_pattern, matching
    from ckptd.storage.locations import split_prefix

    store, key = split_prefix(file)
    kind = file_format(key)
    texts = dict(_pair(text) for text in metadata)
    objects, bundle = places.bundle(served.look(prefix, daemon))
    inside = BundleSource(objects, bundle)

    def is_ours(name: str) -> bool:
        return is_note(name) and inside.facts(name).dtype_name == "string"  # another one is a program's own

    names = []
    for each in wanted:
        if is_pattern(each):
            names += [
                name for name in matching(bundle.names(), each, bundle.location) if name == each or not is_ours(name)
            ]
        else:
            check_names(bundle, [each])
            names.append(each)
    names = list(dict.fromkeys(names)) or [name for name in bundle.names() if not is_ours(name)]
    source = Stripped(inside, names, strip_prefix)
    with progress_bars.shown(f"exporting {bundle.key}", progress) as progressed:
        done = export(
            source,
            store,
            key,
            names=[name.removeprefix(strip_prefix) for name in names],
            skip_unsupported=skip_unsupported,
            metadata=texts,
            overwrite=force,
            progress=progressed,
        )
    if as_json:
        output.emit_json(
            {
                "prefix": bundle.location,
                "file": done.file,
                "format": kind,
                "size_bytes": done.size_bytes,
                "tensors": done.exported,
                "skipped": done.skipped,
            }
        )
        return
    output.tell(f"{done.file}: {counted(len(done.exported), 'tensor')}, {output.size(done.size_bytes)}")
    for name in done.skipped:
        output.note(f"left out: {name} ({source.facts(name).dtype_name}), which {kind} cannot hold")


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise InvalidRequestError(f"--metadata takes KEY=TEXT, as in format=pt, not {text!r}")
    return key, value
