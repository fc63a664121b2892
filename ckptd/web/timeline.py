"""The saves of a run in their order: what is kept, pinned, in quarantine, was aborted, or is under way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ckptd.engine.catalog.retention import Action
from ckptd.engine.saves.views import RunView
from ckptd.web import wording

MOST_MARKS = 60


@dataclass(frozen=True, slots=True)
class Mark:
    """One save. `kind`: kept, pinned, quarantined, aborted, under-way; with "latest" for the newest."""

    at: float
    kind: str
    sign: str
    label: str
    word: str
    title: str
    href: str = ""


@dataclass(frozen=True, slots=True)
class FailedSave:
    """A save that came to nothing: when, its step, and why."""

    at: float
    step: int | None
    why: str


def marks(view: RunView, failed: Sequence[FailedSave], now: float) -> list[Mark]:
    """Return the last ones, oldest first."""
    reasons = {each.prefix: each for each in view.foreseen}
    found = []
    for each in view.checkpoints[-MOST_MARKS:]:
        is_latest = view.latest is not None and each.prefix == view.latest.prefix
        verdict = reasons.get(each.prefix)
        goes = verdict is not None and verdict.action is Action.DROP
        why = "" if verdict is None else f"; {'goes next: ' if goes else ''}{verdict.reason}"
        title = (
            f"{wording.last_part(each.prefix)}: {wording.size(each.size_bytes)} in {each.num_shards} shards, "
            f"durable after {wording.duration(each.duration_s or None)}, saved {wording.moment(each.saved_at)}{why}"
        )
        kind = "pinned" if each.pinned else "kept"
        sign, word = ("◉", "pinned") if each.pinned else ("●", "next to go") if goes else ("●", "")
        found.append(
            Mark(
                each.saved_at,
                f"{kind} latest" if is_latest else kind,
                "✓" if is_latest else sign,
                _step(each.step),
                "latest" if is_latest else word,
                title,
                wording.checkpoint_url(view.run, each),
            )
        )
    found += [
        Mark(each.saved_at, "quarantined", "!", _step(each.step), "quarantined", f"{each.prefix}: {each.quarantine}")
        for each in view.damaged[-MOST_MARKS:]
    ]
    found += [Mark(each.at, "aborted", "✕", _step(each.step), "failed", each.why) for each in failed]
    found.sort(key=lambda mark: mark.at)
    found += [
        Mark(now, "under-way", "…", _step(each.save.step), "saving", "; ".join(each.waiting_for[:3]))
        for each in view.saves
    ]
    return found[-MOST_MARKS:]


def _step(step: int | None) -> str:
    return "–" if step is None else str(step)
