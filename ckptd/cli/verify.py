"""`ckptd verify`: read everything back and check it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ckptd.cli import output, served
from ckptd.cli import progress as progress_bars
from ckptd.errors import CorruptionError, NotFoundError

if TYPE_CHECKING:
    from ckptd.engine.offline.verified import Subset
    from ckptd.engine.reading.verify import Report
    from ckptd.storage.base import Store


@click.command()
@click.argument("place", metavar="PREFIX|DIR")
@click.option("--subset", metavar="N/T", help="Read only the N-th of T parts of each, about as large as the others.")
@progress_bars.option
@served.option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(place: str, subset: str | None, progress: str, as_json: bool, daemon: served.ByDaemon) -> int:
    """Read every byte of the checkpoint at PREFIX, or of all checkpoints in DIR, and check it.

    The time of the verification is noted, if ckptd wrote the checkpoint and the run is not in use; `ckptd ls` shows it.
    With --subset a large one is read in several passes; it counts as verified once every part has been read.

    Exit code 8 if anything is wrong that a reader would notice, with what and where it is.
    """
    from ckptd.cli import places
    from ckptd.engine.catalog import presence
    from ckptd.engine.offline.verified import Subset
    from ckptd.engine.reading.verify import verify
    from ckptd.format.names import index_key

    part = Subset() if subset is None else Subset.parse(subset)
    named = served.look(place, daemon)
    if named.is_directory and named.is_there:
        store = named.store
        keys = places.keys(store)
        if not keys:
            raise NotFoundError(f"there is no checkpoint in {place!r}{places.below(store)}")
    else:
        store, key = places.checkpoint(named)
        keys = [key]

    reports: list[Report] = []
    gone: list[str] = []
    why_not_noted = ""
    for number, key in enumerate(keys, 1):
        label = key if len(keys) == 1 else f"{key} ({number} of {len(keys)})"
        with progress_bars.shown(label, progress) as progressed:
            save_id = _save_id(store, key)
            try:
                report = verify(store, key, progressed, only=part.tensors(store, key))
            except NotFoundError:
                if len(keys) == 1 or presence.has_object(store, index_key(key)):
                    raise
                gone.append(key)  # a trainer saves and deletes meanwhile
                continue
        reports.append(report)
        if report.ok:
            why_not_noted = _note(store, key, save_id, part) or why_not_noted
    if not reports:
        raise NotFoundError(f"all checkpoints of {place!r} were deleted while they were to be read: try again")
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
                    ("every checksum verifies" if part.total == 1 else f"part {subset} verifies")
                    if report.ok
                    else "CORRUPT",
                )
                for report in reports
            ],
        )
    if gone:
        output.note(f"not verified, as it was deleted meanwhile: {', '.join(gone)}")
    for report in reports:
        for problem in report.problems:
            output.note(f"{'damage' if problem.is_fatal else 'harmless'}: {problem}")
    if why_not_noted and part.total > 1:  # a reader that reads part by part relies on it
        output.note(f"when this was verified is not noted: {why_not_noted}")
    if not damaged:
        return 0
    if not as_json:
        output.note(f"{len(damaged)} of {len(reports)} damaged")
    return CorruptionError.exit_code


def _save_id(store: Store, key: str) -> str:
    """Return which save of ckptd wrote the checkpoint, "" if none did: it may be replaced while it is read."""
    from ckptd.engine.catalog.survey import describe, records_by_prefix
    from ckptd.format.names import index_key

    directory = key.rpartition("/")[0]
    try:
        checkpoint, _ = describe(store, store.stat(index_key(key)), records_by_prefix(store, directory).get(key, []))
    except NotFoundError:
        return ""
    return checkpoint.save_id


def _note(store: Store, key: str, save_id: str, part: Subset) -> str:
    """Note that a part was verified; return why it could not be noted, in words, "" when it was."""
    from ckptd.engine.offline.verified import note_verified
    from ckptd.storage.lock_holder import LockHolder

    if not save_id or "/" in key:
        return ""
    return note_verified(store, key, save_id, part, LockHolder.here("ckptd verify").line)
