"""What to keep, and why. Pure: the list of checkpoints and the time come in, a verdict for each goes out.

The rule is that of TensorFlow's Saver, source ``tensorflow/python/training/saver.py``: when the list is longer than
`max_to_keep`, the oldest leave it. One that leaves is deleted, unless it was saved after `next_keep_at`: then it is
kept for good, and `next_keep_at` advances by one interval, not to one interval from now. In two points we differ: all
that are too many leave at once (Saver lets one go per save, so its list never shrinks when `max_to_keep` is lowered),
and pinned ones and those being read stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from ckptd.errors import InvalidRequestError

_HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """How many checkpoints stay listed, and how often one is kept for good.

    Attributes:
        max_to_keep: how many the list may hold; 0 or None keeps all files, and lists only the latest, as Saver does.
        keep_checkpoint_every_n_hours: of those that leave the list, keep one for every so many hours.
    """

    max_to_keep: int | None = 5
    keep_checkpoint_every_n_hours: float = 10000.0

    def __post_init__(self) -> None:
        if self.max_to_keep is not None and self.max_to_keep < 0:
            raise InvalidRequestError("max_to_keep must not be negative", actual=self.max_to_keep)
        if not self.keep_checkpoint_every_n_hours > 0:
            raise InvalidRequestError(
                "keep_checkpoint_every_n_hours must be above 0", actual=self.keep_checkpoint_every_n_hours
            )

    @property
    def interval_s(self) -> float:
        """The hours, in seconds."""
        return self.keep_checkpoint_every_n_hours * _HOUR_S


class Action(Enum):
    """What becomes of a checkpoint."""

    KEEP = "keep"  # stays in the list
    PRESERVE = "preserve"  # leaves the list, its files stay for good
    DROP = "drop"  # leaves the list, its files are deleted


@dataclass(frozen=True, slots=True)
class Candidate:
    """A listed checkpoint, as far as retention looks at it. `saved_at` is wall clock."""

    prefix: str
    saved_at: float
    pinned: bool = False
    in_use: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of one checkpoint, and why, in words for people."""

    prefix: str
    action: Action
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict per candidate, in the candidates' order, and the rule's clock after it."""

    verdicts: tuple[Verdict, ...]
    next_keep_at: float

    def prefixes(self, action: Action) -> list[str]:
        """Return those that have this verdict, oldest first."""
        return [verdict.prefix for verdict in self.verdicts if verdict.action is action]


def decide(policy: RetentionPolicy, candidates: Sequence[Candidate], next_keep_at: float) -> Decision:
    """Give every candidate its verdict.

    Args:
        policy: the rule's numbers.
        candidates: the list, oldest first; the last is the latest and always stays. Pinned ones don't count.
        next_keep_at: wall clock; who was saved strictly after it is kept for good on leaving.
    """
    if not candidates:
        return Decision((), next_keep_at)
    *older, newest = candidates
    latest = Verdict(newest.prefix, Action.KEEP, "it is the latest")
    if not policy.max_to_keep:
        reason = "max_to_keep is 0: nothing is ever deleted"
        return Decision((*(Verdict(each.prefix, Action.PRESERVE, reason) for each in older), latest), next_keep_at)
    num_counted = sum(not each.pinned for each in candidates)
    num_surplus = num_counted - policy.max_to_keep
    verdicts = []
    for each in older:
        if each.pinned:
            verdicts.append(Verdict(each.prefix, Action.KEEP, "it is pinned"))
            continue
        if num_surplus <= 0:
            verdicts.append(Verdict(each.prefix, Action.KEEP, f"one of the newest {policy.max_to_keep}"))
            continue
        num_surplus -= 1
        if each.in_use:
            verdicts.append(Verdict(each.prefix, Action.KEEP, "it is being read; it goes at a later save"))
        elif each.saved_at > next_keep_at:
            reason = f"one is kept for good every {policy.keep_checkpoint_every_n_hours:g} hours, and it was due"
            verdicts.append(Verdict(each.prefix, Action.PRESERVE, reason))
            next_keep_at += policy.interval_s
        else:
            verdicts.append(Verdict(each.prefix, Action.DROP, f"older than the newest {policy.max_to_keep}"))
    return Decision((*verdicts, latest), next_keep_at)
