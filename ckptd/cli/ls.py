"""`ckptd ls`: the checkpoints in a directory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ckptd.cli import output, served
from ckptd.errors import CorruptionError
from ckptd.format import names

if TYPE_CHECKING:
    from ckptd.client.daemon.served_run import ServedRun
    from ckptd.engine.catalog.survey import Found


@click.command()
@click.argument("directory", metavar="DIR")
@served.option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(directory: str, as_json: bool, daemon: served.ByDaemon) -> int:
    """List the checkpoints in DIR by step, whichever program wrote them; of a daemon's run, those that it lists.

    The one that the state file names is marked as the latest: `ckptd latest` prints it. When damage keeps a daemon from
    opening the run, that is said, nothing is marked as listed, and the exit code is 8.
    """
    from ckptd.cli import places
    from ckptd.engine.catalog.survey import survey
    from ckptd.engine.offline import diagnosis

    if (run := served.directory(directory, daemon)) is not None:
        return _list_served(run, as_json)
    store = places.directory(directory)
    quarantined = diagnosis.why_quarantined(store, "")
    problems = diagnosis.damaged_records(store, "")
    found = survey(store, "", names.STATE_KEY if quarantined is None else None)
    code = 0 if quarantined is None else CorruptionError.exit_code
    if as_json:
        output.emit_json(
            {
                "directory": store.url,
                "latest": next((each.checkpoint.prefix for each in found if each.is_latest), None),
                "quarantined": quarantined,
                "problems": problems,
                "checkpoints": [
                    {
                        **asdict(each.checkpoint),
                        "listed": each.is_listed,
                        "problem": None if each.problem is None else str(each.problem),
                        "quarantined": each.is_quarantined,
                    }
                    for each in found
                ],
            }
        )
        return code
    for problem in filter(None, (quarantined, *problems)):
        output.note(f"damaged: {problem}; `ckptd repair {directory}` mends it")
    if not found:
        output.note(f"there is no checkpoint in {directory}{places.below(store)}")
        return code
    _print(store.url, found)
    return code


def _print(url: str, found: Sequence[Found]) -> None:
    now = time.time()
    output.table(
        url,
        ("name", "step", "size", "shards", "saved", ""),
        [
            (
                each.checkpoint.prefix.rpartition("/")[2],
                "–" if each.checkpoint.step is None else each.checkpoint.step,
                output.size(each.checkpoint.size_bytes),
                each.checkpoint.num_shards,
                f"{output.moment(each.checkpoint.saved_at)} ({output.age(each.checkpoint.saved_at, now)})",
                ", ".join(_marks(each)),
            )
            for each in found
        ],
    )


def _list_served(run: ServedRun, as_json: bool) -> int:
    """List what a daemon lists: complete checkpoints."""
    found = served.found(run)
    if as_json:
        told = [{**asdict(each.checkpoint), "listed": True, "problem": None, "quarantined": False} for each in found]
        named = next((each.checkpoint.prefix for each in found if each.is_latest), None)
        output.emit_json(
            {"directory": run.url, "latest": named, "quarantined": None, "problems": [], "checkpoints": told}
        )
    else:
        _print(run.url, found)
    return 0


def _marks(found: Found) -> Iterator[str]:
    if found.is_latest:
        yield "latest"
    if found.checkpoint.pinned:
        yield "pinned"
    if not found.is_listed:
        yield "not in the state file"
    if found.problem is not None:
        yield f"{'QUARANTINED' if found.is_quarantined else 'INCOMPLETE'}: {found.problem.reason}"
    if found.checkpoint.verified_at is not None:
        yield f"verified {output.moment(found.checkpoint.verified_at)}"
