"""`ckptd bench`: measure this disk and this host, the speed of ckptd on them, and what limits it."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

import click

from ckptd.cli import output
from ckptd.errors import InvalidRequestError, StorageFullError

_COPIES = 6  # times the size, on disk at once at most: three transports, two checkpoints each


@click.command()
@click.argument("directory", metavar="[DIR]", required=False)
@click.option("--size-mb", type=click.IntRange(1, 65536), default=256, show_default=True, help="Bytes to move, in MB.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(directory: str | None, size_mb: int, as_json: bool) -> None:
    """Measure what the disk below DIR and this host's memory can do, what ckptd reaches, and what limits it.

    One process saves and restores: without a daemon, through a daemon by shared memory, and by gRPC as other hosts do.
    "Bounded by" names what accounts for most of the time, and for how much of it; where nothing does for half of it,
    there is a dash, and the time goes into waiting and fixed costs, as with little data. It works in a new directory
    below DIR (default: the temporary directory) and removes it. For comparisons with other libraries see benchmarks/
    in the source.
    """
    from ckptd.cli import measuring, places
    from ckptd.storage.local.mounts import mount_of
    from ckptd.storage.locations import is_url

    with ExitStack() as stack:
        if directory is not None:
            if is_url(directory) and not directory.startswith("file:"):
                raise InvalidRequestError(f"bench measures this host's directories, and {directory!r} is none")
            store = places.directory(directory)
            free_bytes = store.free_bytes()
            if free_bytes is not None and free_bytes < _COPIES * size_mb * 1_000_000:
                raise StorageFullError(
                    "too little room for the measurement: lower --size-mb",
                    key=directory,
                    expected=output.size(_COPIES * size_mb * 1_000_000),
                    actual=output.size(free_bytes),
                )
            directory = store.url
        where = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ckptd-bench-", dir=directory)))
        mount = mount_of(str(where))
        figures = measuring.measure(where, size_mb * 1_000_000, lambda what: output.note(f"measuring {what} …"))
    if as_json:
        output.emit_json(
            {
                "directory": str(where.parent),
                "file_system": None if mount is None else mount.kind,
                "size_bytes": size_mb * 1_000_000,
                "figures": [
                    {
                        "name": figure.name,
                        "seconds": figure.seconds,
                        "bytes_per_s": figure.bytes_per_s,
                        "bounded_by": None if figure.bound is None else figure.bound.what,
                        "bound_share": None if figure.bound is None else figure.bound.share,
                        "about": figure.about,
                    }
                    for figure in figures
                ],
            }
        )
        return
    kind = "" if mount is None else f" ({mount.kind})"
    output.table(
        f"{output.size(size_mb * 1_000_000)} in {where.parent}{kind}",
        ("what", "took", "rate", "bounded by", ""),
        [
            (
                figure.name,
                output.duration(figure.seconds),
                "–" if figure.bytes_per_s is None else f"{output.size(round(figure.bytes_per_s))}/s",
                "–" if figure.bound is None else str(figure.bound),
                figure.about,
            )
            for figure in figures
        ],
    )
