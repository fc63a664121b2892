"""The checkpoints of a run as a page lists them: why each is kept, what goes next, and the commands that change it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ckptd.engine.catalog.retention import Action
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.saves.views import RunView
from ckptd.web import wording

MOST_ROWS = 100
"""Of one page."""

_UNLISTED = "it left the list, and its files stay for good"


@dataclass(frozen=True, slots=True)
class Row:
    """One checkpoint in the table; `kind` is how it looks: "", "next" or "quarantined"."""

    label: str
    prefix: str
    href: str
    kind: str
    tags: tuple[str, ...]
    saved_at: float
    size_bytes: int
    num_shards: int
    verified_at: float | None
    why: str


@dataclass(frozen=True, slots=True)
class RunCommand:
    """What a person may do about a run, and the command that does it."""

    what: str
    command: str


def rows(view: RunView, *, skip: int = 0) -> list[Row]:
    """Return the rows of one page, newest first, those in quarantine at their places."""
    verdicts = {each.prefix: each for each in view.foreseen}
    latest = None if view.latest is None else view.latest.prefix
    found = []
    for each in view.checkpoints:
        verdict = verdicts.get(each.prefix)
        goes = verdict is not None and verdict.action is Action.DROP
        why = (_UNLISTED if view.foreseen else "") if verdict is None else verdict.reason
        is_latest = each.prefix == latest
        if is_latest:
            why = "it is the latest"
        elif goes:
            why = f"goes with the next save: {why}"
        tags = [name for name, holds in (("latest", is_latest), ("pinned", each.pinned), ("next", goes)) if holds]
        found.append(_row(view.run, each, "next" if goes else "", tuple(tags), why))
    for record in view.damaged:
        found.append(
            Row(
                label=record.prefix,
                prefix=record.prefix_key,
                href=wording.named_url(view.run, record.prefix),
                kind="quarantined",
                tags=("quarantined",),
                saved_at=record.saved_at,
                size_bytes=record.size_bytes,
                num_shards=record.num_shards,
                verified_at=None,
                why=f"in quarantine, its files stay: {record.quarantine}",
            )
        )
    found.sort(key=lambda row: row.saved_at, reverse=True)
    return found[skip : skip + MOST_ROWS]


def next_to_go(view: RunView) -> list[str]:
    """Return the names of what retention deletes once one more is saved."""
    return [wording.last_part(each.prefix) for each in view.foreseen if each.action is Action.DROP][:5]


def actions(view: RunView) -> Sequence[RunCommand]:
    """Return what a person may do about the checkpoints of a run. The page itself changes nothing."""
    if not view.checkpoints:
        return ()
    newest = (view.latest or view.checkpoints[-1]).prefix
    directory = newest.rsplit("/", 1)[0]
    return (
        RunCommand("Keep one for good", wording.command("ckptd", "pin", newest)),
        RunCommand("Look into it", wording.command("ckptd", "show", newest)),
        RunCommand("Read all of it, and check every byte", wording.command("ckptd", "verify", newest)),
        RunCommand(
            "What retention would delete now, and why", wording.command("ckptd", "prune", directory, "--dry-run")
        ),
        RunCommand("Delete it, in a way that can be undone", wording.command("ckptd", "rm", newest)),
    )


def _row(run: str, each: Checkpoint, kind: str, tags: tuple[str, ...], why: str) -> Row:
    return Row(
        label=wording.last_part(each.prefix),
        prefix=each.prefix,
        href=wording.checkpoint_url(run, each),
        kind=kind,
        tags=tags,
        saved_at=each.saved_at,
        size_bytes=each.size_bytes,
        num_shards=each.num_shards,
        verified_at=each.verified_at,
        why=why,
    )
