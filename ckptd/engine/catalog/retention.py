"""What to keep, and why. Pure: the list of checkpoints and the time come in, a verdict for each goes out.

The rules are TensorFlow's, see `housekeeping`; a policy names one. What ckptd adds: pinned ones stay and do not count,
the newest always stays, and so does what the operator's `Floor` keeps, which no rule undercuts. What leaves the list is
one question, when files are deleted another: that waits for readers, and never happens to what is not ours; see
`publishing`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from ckptd.engine.catalog.floor import NO_FLOOR, Floor
from ckptd.engine.catalog.tensorflow_rules import HOUR_S, Leaving, ManagerHousekeeping, SaverHousekeeping, as_float32
from ckptd.engine.identity import RunOptions
from ckptd.errors import InvalidRequestError


class Rule(Enum):
    """Which rule decides."""

    SAVER = "saver"
    MANAGER = "manager"

    @classmethod
    def named(cls, name: str) -> Rule:
        """Return the rule of this name.

        Raises:
            InvalidRequestError: when there is none.
        """
        try:
            return cls(name)
        except ValueError as error:
            raise InvalidRequestError(
                "retention is one of two rules", expected="saver or manager", actual=name
            ) from error


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """How many checkpoints stay listed, and how often one is kept for good.

    Attributes:
        max_to_keep: how many the list may hold; 0 or None keeps all files. Saver then lists only the latest,
            CheckpointManager all.
        keep_checkpoint_every_n_hours: of those that leave the list, keep one per this many hours; None keeps none.
        rule: how both numbers are meant.
    """

    max_to_keep: int | None = 5
    keep_checkpoint_every_n_hours: float | None = 10000.0
    rule: Rule = Rule.SAVER

    def __post_init__(self) -> None:
        if self.max_to_keep is not None and not isinstance(self.max_to_keep, int):
            raise InvalidRequestError("max_to_keep is a whole number or None", actual=repr(self.max_to_keep))
        if self.max_to_keep is not None and self.max_to_keep < 0:
            raise InvalidRequestError("max_to_keep must not be negative", actual=self.max_to_keep)
        hours = self.keep_checkpoint_every_n_hours
        if hours is not None and not isinstance(hours, (int, float)):
            raise InvalidRequestError("keep_checkpoint_every_n_hours is a number or None", actual=repr(hours))
        if hours is not None and not hours > 0:
            raise InvalidRequestError("keep_checkpoint_every_n_hours must be above 0", actual=hours)

    @property
    def interval_s(self) -> float:
        """The hours, in seconds, as the rule has them; endless without."""
        hours = self.keep_checkpoint_every_n_hours
        if hours is None:
            return math.inf
        return (as_float32(hours) if self.rule is Rule.SAVER else hours) * HOUR_S

    def sure_to_go(self, mark: float) -> float:
        """Return up to which time of saving a checkpoint that leaves the list is sure to be deleted, by wall clock.

        `mark` is what `decide` returned last. A manager keeps old ones and new ones for good, and deletes those
        between: nothing is sure without a mark on each.
        """
        if not self.max_to_keep or self.rule is Rule.MANAGER:
            return 0.0
        return min(mark, sys.float_info.max)


def requested(options: RunOptions) -> RetentionPolicy:
    """Return the rule of retention that a member requests; `InvalidRequestError` when there is none of that name."""
    return RetentionPolicy(options.max_to_keep, options.keep_checkpoint_every_n_hours, Rule.named(options.retention))


class Action(Enum):
    """What becomes of a checkpoint."""

    KEEP = "keep"  # stays in the list
    PRESERVE = "preserve"  # leaves the list, its files stay for good
    DROP = "drop"  # leaves the list, its files are deleted


@dataclass(frozen=True, slots=True)
class Candidate:
    """A listed checkpoint, as far as retention looks at it.

    Attributes:
        prefix: names it.
        saved_at: wall clock, as the rule recorded it.
        pinned: it stays, whatever the rule says, and does not count.
        is_released: it was pinned, and others have taken its place: it leaves now, besides the one that is too many.
        is_managed: the rule has it in its own list; otherwise only the state file has it.
    """

    prefix: str
    saved_at: float
    pinned: bool = False
    is_managed: bool = True
    is_released: bool = False


class Why(Enum):
    """What a verdict rests on. `DROPS` let a checkpoint go, the others keep it."""

    LATEST = "latest"
    PINNED = "pinned"
    NEWEST = "newest"  # one of the newest `max_to_keep`
    KEEPS_ALL = "keeps_all"  # the rule deletes nothing
    EVERY_HOURS = "every_hours"  # one is kept for good every so many hours
    ONE_A_SAVE = "one_a_save"  # its turn comes at a later save
    FORGOTTEN = "forgotten"  # the rule has it in its list no more
    FLOOR = "floor"  # the operator's policy keeps it
    NOT_OURS = "not_ours"
    IN_USE = "in_use"  # it is being read
    POSTPONED = "postponed"  # the store is not ready for it, or it could not be deleted
    TOO_MANY = "too_many"  # older than the newest `max_to_keep`
    REPLACED = "replaced"  # its step was saved anew
    UNDO_OVER = "undo_over"  # it was deleted, and that can be undone no longer
    LEFT_EARLIER = "left_earlier"  # it had to go before, and could not
    RECOVERED = "recovered"  # a crash had interrupted its deletion


DROPS = (Why.TOO_MANY, Why.REPLACED, Why.UNDO_OVER, Why.LEFT_EARLIER, Why.RECOVERED)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of one checkpoint, and why; `reason` has that in words for people."""

    prefix: str
    action: Action
    reason: str
    why: Why


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict per candidate, in the candidates' order, and the rule's mark after it."""

    verdicts: tuple[Verdict, ...]
    mark: float

    def prefixes(self, action: Action) -> list[str]:
        """Return those that have this verdict, oldest first."""
        return [verdict.prefix for verdict in self.verdicts if verdict.action is action]


def decide(policy: RetentionPolicy, candidates: Sequence[Candidate], mark: float, floor: Floor = NO_FLOOR) -> Decision:
    """Give every candidate its verdict, when the last of them has just been saved.

    Args:
        policy: the rule and its numbers.
        candidates: the list, oldest first; the last is the latest and always stays. Pinned ones don't count.
        mark: the rule's own time, wall clock: `next_keep` of a Saver, `preserved` of a manager.
        floor: what the operator keeps of all of them, pinned ones included: that stays listed until it no longer does.
    """
    if not candidates:
        return Decision((), mark)
    *older, newest = candidates
    counted = [each for each in older if each.is_managed and not each.pinned]
    leaving, mark = _leaving(policy, counted, newest, mark)
    verdicts = []
    for num_newer, each in zip(range(len(older), 0, -1), older, strict=True):
        if each.pinned:
            verdicts.append(Verdict(each.prefix, Action.KEEP, "it is pinned", Why.PINNED))
        elif not each.is_managed:
            verdicts.append(Verdict(each.prefix, Action.PRESERVE, *_why_unmanaged(policy)))
        elif each.prefix not in leaving:
            verdicts.append(Verdict(each.prefix, Action.KEEP, *_why_kept(policy, each, counted, newest)))
        elif leaving[each.prefix].is_kept:
            reason = f"one is kept for good every {policy.keep_checkpoint_every_n_hours:g} hours, and it was due"
            verdicts.append(Verdict(each.prefix, Action.PRESERVE, reason, Why.EVERY_HOURS))
        elif why := floor.why_kept(num_newer, newest.saved_at - each.saved_at):
            verdicts.append(Verdict(each.prefix, Action.KEEP, why, Why.FLOOR))
        else:
            reason = f"older than the newest {policy.max_to_keep}"
            verdicts.append(Verdict(each.prefix, Action.DROP, reason, Why.TOO_MANY))
    return Decision((*verdicts, Verdict(newest.prefix, Action.KEEP, "it is the latest", Why.LATEST)), mark)


def _leaving(
    policy: RetentionPolicy, counted: Sequence[Candidate], newest: Candidate, mark: float
) -> tuple[dict[str, Leaving], float]:
    """Let the rule record the newest; return what leaves, by prefix, and the mark. A pinned newest does not count."""
    hours = policy.keep_checkpoint_every_n_hours
    if policy.rule is Rule.SAVER:
        saver = SaverHousekeeping(policy.max_to_keep, math.inf if hours is None else hours, 0.0)
        saver.next_keep = mark
        saver.last = [(each.prefix, each.saved_at) for each in counted if not each.is_released]
        saver.doomed = [(each.prefix, each.saved_at) for each in counted if each.is_released and policy.max_to_keep]
        if not newest.pinned:
            saver.record(newest.prefix, newest.saved_at)
        victims = iter(saver.next_victim, None)
        return {victim.path: victim for victim in victims}, saver.next_keep
    manager = ManagerHousekeeping(policy.max_to_keep, hours, mark)
    manager.active = {each.prefix: each.saved_at for each in counted}
    if not newest.pinned:
        manager.record(newest.prefix, newest.saved_at)
    return {each.path: each for each in manager.sweep()}, manager.preserved


def _why_kept(
    policy: RetentionPolicy, each: Candidate, counted: Sequence[Candidate], newest: Candidate
) -> tuple[str, Why]:
    if not policy.max_to_keep:
        return _KEEPS_ALL
    place = len(counted) - counted.index(each) + (not newest.pinned)
    if place > policy.max_to_keep:
        return "one at most leaves per save, as with Saver", Why.ONE_A_SAVE
    return f"one of the newest {policy.max_to_keep}", Why.NEWEST


def _why_unmanaged(policy: RetentionPolicy) -> tuple[str, Why]:
    if not policy.max_to_keep:
        return _KEEPS_ALL
    return "CheckpointManager forgets those that are not newer than the one it kept last", Why.FORGOTTEN


_KEEPS_ALL = "max_to_keep is 0: nothing is ever deleted", Why.KEEPS_ALL
