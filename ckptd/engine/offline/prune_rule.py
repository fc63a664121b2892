"""Which checkpoints of a directory `ckptd prune` deletes, and why each of the others stays. Pure.

This is the rule of `ckptd prune`, for any directory, of any program. It is stricter than a run's own retention, which
knows what it has just saved: here a checkpoint counts as superseded only when enough newer ones exist both by their
steps and by the times at which they were saved, because a run that was rolled back saves lower steps later.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import Enum

from ckptd.engine.catalog.survey import Found
from ckptd.errors import InvalidRequestError

_HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class PruneRule:
    """What is to be kept.

    Attributes:
        keep: that many of the newest of each name.
        every_hours: of the others, one per this many hours.
        every_steps: of the others, those whose step is a multiple of this.
        foreign: judge checkpoints that ckptd did not write like its own; else they stay.
    """

    keep: int
    every_hours: float | None = None
    every_steps: int | None = None
    foreign: bool = False

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise InvalidRequestError("one checkpoint at least is always kept", actual=self.keep)
        if self.every_hours is not None and not self.every_hours > 0:
            raise InvalidRequestError("an interval is above 0 hours", actual=self.every_hours)
        if self.every_steps is not None and self.every_steps < 1:
            raise InvalidRequestError("an interval is 1 step at least", actual=self.every_steps)


class PruneAction(Enum):
    """What `ckptd prune` does with a checkpoint."""

    KEEP = "keep"  # the rule wants it
    DELETE = "delete"  # superseded, and proven to be so
    LEAVE = "leave"  # there is no proof that it may be deleted


@dataclass(frozen=True, slots=True)
class PruneVerdict:
    """Whether one checkpoint stays, and why, in words for people."""

    found: Found
    action: PruneAction
    reason: str

    @property
    def name(self) -> str:
        """The last component of its prefix."""
        return name_of(self.found)


def judge(
    found: Sequence[Found],
    rule: PruneRule,
    named: Collection[str] = (),
    verifies: Callable[[Found], bool] | None = None,
) -> list[PruneVerdict]:
    """Return a verdict for every checkpoint of a directory, in the order of `found`.

    Args:
        found: all of them, as `survey` gives them.
        rule: what is to be kept.
        named: prefixes that a state file of the directory names as its latest, whichever state file that is.
        verifies: reads a checkpoint back and says whether all of it is sound. Called only when something would be
            deleted, from the newest on until one is: that one is kept. None checks nothing.
    """
    verdicts = {id(each): _first_look(each, rule, named) for each in found}
    open_ones = [each for each in found if verdicts[id(each)] is None]
    judged: dict[int, PruneVerdict] = {}
    for family in {_family(each) for each in open_ones}:
        # Those that are kept for other reasons count too: with the newest three wanted, there are three.
        members = [each for each in found if _family(each) == family and each.problem is None]
        by_step = {id(each) for each in sorted(members, key=lambda each: each.checkpoint.step or 0)[-rule.keep :]}
        by_time = {id(each) for each in sorted(members, key=lambda each: each.checkpoint.saved_at)[-rule.keep :]}
        for each in members:
            if id(each) in by_step:
                judged[id(each)] = PruneVerdict(each, PruneAction.KEEP, f"one of the newest {rule.keep} by step")
            elif id(each) in by_time:
                judged[id(each)] = PruneVerdict(each, PruneAction.KEEP, f"one of the newest {rule.keep} by time")
    kept_at: dict[str, float] = {}
    for each in sorted(open_ones, key=lambda each: each.checkpoint.saved_at):
        if id(each) not in judged:
            judged[id(each)] = _last_look(each, rule, kept_at)
    result = [verdicts[id(each)] or judged[id(each)] for each in found]
    if verifies is None or not any(verdict.action is PruneAction.DELETE for verdict in result):
        return result
    return _with_a_sound_one(result, verifies)


def name_of(found: Found) -> str:
    """Return the last component of a checkpoint's prefix."""
    return found.checkpoint.prefix.rpartition("/")[2]


def is_ours(found: Found) -> bool:
    """Say whether a record of ours belongs to the index in place."""
    return bool(found.checkpoint.save_id)


def _first_look(found: Found, rule: PruneRule, named: Collection[str]) -> PruneVerdict | None:
    if found.problem is not None:
        return PruneVerdict(found, PruneAction.LEAVE, f"it is not complete: {found.problem}")
    if found.is_latest or found.checkpoint.prefix in named:
        return PruneVerdict(found, PruneAction.KEEP, "it is the latest")
    if found.checkpoint.pinned:
        return PruneVerdict(found, PruneAction.KEEP, "it is pinned")
    if found.checkpoint.step is None:
        return PruneVerdict(found, PruneAction.LEAVE, "its name has no step, so nothing says what supersedes it")
    if not is_ours(found) and not rule.foreign:
        return PruneVerdict(found, PruneAction.LEAVE, "ckptd did not write it; --foreign judges such ones too")
    return None


def _last_look(found: Found, rule: PruneRule, kept_at: dict[str, float]) -> PruneVerdict:
    """Judge one that is not among the newest; called from the oldest on. `kept_at`: when one was kept, per name."""
    checkpoint, family = found.checkpoint, _family(found)
    if rule.every_steps is not None and (checkpoint.step or 0) % rule.every_steps == 0:
        return PruneVerdict(found, PruneAction.KEEP, f"its step is a multiple of {rule.every_steps}")
    if rule.every_hours is not None:
        last = kept_at.get(family)
        if last is None or checkpoint.saved_at - last >= rule.every_hours * _HOUR_S:
            kept_at[family] = checkpoint.saved_at
            return PruneVerdict(found, PruneAction.KEEP, f"one is kept for every {rule.every_hours:g} hours")
    return PruneVerdict(found, PruneAction.DELETE, f"older than the newest {rule.keep}, by step and by time")


def _with_a_sound_one(verdicts: list[PruneVerdict], verifies: Callable[[Found], bool]) -> list[PruneVerdict]:
    """Spare the newest checkpoint that verifies: what is called the latest may be damaged."""
    whole = [verdict for verdict in verdicts if verdict.found.problem is None]
    whole.sort(key=lambda verdict: (verdict.found.is_latest, verdict.found.checkpoint.saved_at), reverse=True)
    for spared in whole:
        if verifies(spared.found):
            break
    else:
        reason = "no checkpoint here verifies, so none is superseded"
        return [_instead(verdict, PruneAction.LEAVE, reason) for verdict in verdicts]
    reason = "the newest that verifies"
    return [_instead(verdict, PruneAction.KEEP, reason) if verdict is spared else verdict for verdict in verdicts]


def _instead(verdict: PruneVerdict, action: PruneAction, reason: str) -> PruneVerdict:
    return PruneVerdict(verdict.found, action, reason) if verdict.action is PruneAction.DELETE else verdict


def _family(found: Found) -> str:
    """Return the name without its step: ``best`` and ``model.ckpt`` supersede only their own."""
    name = name_of(found)
    return name.rpartition("-")[0] if found.checkpoint.step is not None else name
