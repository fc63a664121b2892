"""`ckptd verify`: reads everything back and checks it."""

from __future__ import annotations

import click

from ckptd.cli import output
from ckptd.cli import progress as progress_bars
from ckptd.errors import CorruptionError, NotFoundError


@click.command()
@click.argument("place", metavar="PREFIX|DIR")
@progress_bars.option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(place: str, progress: str, as_json: bool) -> int:
    """Read every byte of the checkpoint at PREFIX, or of all checkpoints in DIR, and check it.

    Exit code 8 if anything is wrong that a reader would notice, with what and where it is.
    """
    from ckptd.cli import places
    from ckptd.engine.verify import verify

    if places.is_directory(place):
        store = places.directory(place)
        keys = places.keys(store)
        if not keys:
            raise NotFoundError(f"there is no checkpoint in {place!r}{places.below(store)}")
    else:
        store, key = places.checkpoint(place)
        keys = [key]

    reports = []
    for number, key in enumerate(keys, 1):
        label = key if len(keys) == 1 else f"{key} ({number} of {len(keys)})"
        with progress_bars.shown(label, progress) as progressed:
            reports.append(verify(store, key, progressed))
    damaged = [report for report in reports if not report.ok]
    if as_json:
        output.emit_json({"ok": not damaged, "reports": reports})
    else:
        output.table(
            store.url,
            ("name", "tensors", "shards", "size", "result"),
            [
                (
                    report.prefix.rpartition("/")[2],
                    report.num_tensors,
                    report.num_shards,
                    output.size(report.size_bytes),
                    "every checksum verifies" if report.ok else "CORRUPT",
                )
                for report in reports
            ],
        )
    for report in reports:
        for problem in report.problems:
            output.note(f"{'damage' if problem.is_fatal else 'harmless'}: {problem}")
    if not damaged:
        return 0
    if not as_json:
        output.note(f"{len(damaged)} of {len(reports)} damaged")
    return CorruptionError.exit_code
