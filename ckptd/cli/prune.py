"""`ckptd prune`: delete the checkpoints of a directory that newer ones supersede, or say which would go."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ckptd.cli import output, served
from ckptd.cli import progress as progress_bars
from ckptd.cli.keepers import Reach, reach_options
from ckptd.cli.places import Served
from ckptd.errors import CkptdError

if TYPE_CHECKING:
    from ckptd.cli.keepers import Keeper
    from ckptd.engine.catalog.survey import Found
    from ckptd.engine.offline.prune_rule import PruneRule, PruneVerdict
    from ckptd.storage.base import Store


@click.command()
@click.argument("directory", metavar="DIR")
@click.option("--keep", type=click.IntRange(min=1), required=True, metavar="N", help="Keep the newest N of each name.")
@click.option(
    "--keep-every-hours", type=click.FloatRange(min=0, min_open=True), metavar="H", help="Also keep one per H hours."
)
@click.option("--keep-every-steps", type=click.IntRange(min=1), metavar="S", help="Also keep steps divisible by S.")
@click.option("--foreign", is_flag=True, help="Also judge checkpoints that ckptd did not write.")
@click.option("--dry-run", "-n", is_flag=True, help="Only print what would be done, and why; change nothing.")
@click.option("--no-verify", is_flag=True, help="Don't verify the newest before older ones are deleted.")
@click.option("--latest-filename", default="checkpoint", show_default=True, help="Name of the state file.")
@progress_bars.option
@reach_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    directory: str,
    keep: int,
    keep_every_hours: float | None,
    keep_every_steps: int | None,
    foreign: bool,
    dry_run: bool,
    no_verify: bool,
    latest_filename: str,
    progress: str,
    how: Reach,
    as_json: bool,
) -> int:
    """Delete the checkpoints in DIR that newer ones supersede, each with its reason.

    Never deleted are the latest, pinned ones, the newest that verifies, incomplete ones, and, without --foreign, what
    ckptd did not write. Superseded means: older than the newest N by step and by time.
    """
    from ckptd.cli import keepers
    from ckptd.engine.offline.prune_rule import PruneAction, PruneRule

    store = keepers.directory(directory, how)
    rule = PruneRule(keep, keep_every_hours, keep_every_steps, foreign)
    failures: dict[str, CkptdError] = {}
    if dry_run:
        verdicts = judge(store, rule, latest_filename, None if no_verify else progress)
    else:
        with keepers.keeper(store, how) as keeper:
            # Read only now: from here on nothing else changes it, or the daemon decides.
            verdicts = judge(store, rule, latest_filename, None if no_verify else progress)
            failures = _carry_out(verdicts, keeper, foreign)
    going = [verdict for verdict in verdicts if verdict.action is PruneAction.DELETE and verdict.name not in failures]
    freed_bytes = sum(verdict.found.checkpoint.size_bytes for verdict in going)
    if as_json:
        output.emit_json(
            {
                "directory": store.url,
                "dry_run": dry_run,
                "checkpoints": [_describe(verdict, failures.get(verdict.name)) for verdict in verdicts],
                "num_deleted": 0 if dry_run else len(going),
                "freed_bytes": freed_bytes,
            }
        )
    else:
        _show(store, verdicts, failures)
        output.say()
        done = "would be deleted" if dry_run else "deleted"
        output.tell(f"{len(going)} of {len(verdicts)} {done}, {output.size(freed_bytes)}")
    return next((error.exit_code for error in failures.values()), 0)


def judge(store: Store, rule: PruneRule, latest_filename: str, progress: str | None) -> list[PruneVerdict]:
    """Read the directory that is `store`'s root and return a verdict for every checkpoint; nothing is changed.

    `progress` says how to show how far verifying is; None verifies nothing.
    """
    from ckptd.engine.catalog.survey import survey
    from ckptd.engine.offline import foreign, prune_rule
    from ckptd.engine.reading.verify import verify as read_back

    def is_sound(found: Found) -> bool:
        assert progress is not None  # else it is not called
        name = prune_rule.name_of(found)
        with progress_bars.shown(f"verifying {name}", progress) as progressed:
            return read_back(store, name, progressed).ok

    if isinstance(store, Served):
        return prune_rule.judge(served.found(store), rule, (), is_sound if progress is not None else None)
    found = survey(store, "", latest_filename)
    named = foreign.named_as_latest(store, "")
    return prune_rule.judge(found, rule, named, is_sound if progress is not None else None)


def _carry_out(verdicts: list[PruneVerdict], keeper: Keeper, foreign: bool) -> dict[str, CkptdError]:
    """Delete what is to go, the oldest first; return what could not be deleted, by name."""
    from ckptd.engine.offline.prune_rule import PruneAction

    failures: dict[str, CkptdError] = {}
    for verdict in verdicts:
        if verdict.action is PruneAction.DELETE:
            try:
                keeper.delete(verdict.name, even_foreign=foreign, pruned_because=verdict.reason)
            except CkptdError as error:
                failures[verdict.name] = error
    return failures


def _describe(verdict: PruneVerdict, failure: CkptdError | None) -> dict[str, object]:
    from ckptd.engine.offline.prune_rule import is_ours

    checkpoint = verdict.found.checkpoint
    return {
        "prefix": checkpoint.prefix,
        "step": checkpoint.step,
        "size_bytes": checkpoint.size_bytes,
        "saved_at": checkpoint.saved_at,
        "ours": is_ours(verdict.found),
        "action": verdict.action if failure is None else "leave",
        "reason": verdict.reason if failure is None else f"it could not be deleted: {failure}",
    }


def _show(store: Store, verdicts: list[PruneVerdict], failures: dict[str, CkptdError]) -> None:
    rows = []
    for verdict in verdicts:
        row = _describe(verdict, failures.get(verdict.name))
        action = verdict.action.value if verdict.name not in failures else "leave"
        rows.append((verdict.name, output.size(verdict.found.checkpoint.size_bytes), action, row["reason"]))
    output.table(store.url, ("name", "size", "verdict", "because"), rows)
