"""What became of the saves of a run, as its owner keeps it beside the checkpoints: the newest ones, a line each.

The object is at ``RUN/.ckptd/history``. Each line is ``CRC JSON``, the CRC-32C of the JSON in hex, oldest first. It is
replaced whole, so no crash leaves half of it; a line that is damaged is left out, and the others count. Nothing rests
on it: without it only the past is unknown.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ckptd.engine.wording import describe_seconds
from ckptd.errors import CorruptionError, NotFoundError
from ckptd.format.crc32c import crc32c
from ckptd.storage.base import Store
from ckptd.storage.keys import join

if sys.version_info >= (3, 11):
    from typing import Self
else:
    from typing_extensions import Self

NAME = ".ckptd/history"  # not `.json`: it is no record
MOST_SAVES = 500
"""Of one run. Older ones are forgotten."""

MOST_BYTES = 4 << 20
COMMITTED, ABORTED, REFUSED, FAILED = OUTCOMES = "committed", "aborted", "refused", "failed"

_MOST_TEXT = 500  # characters
_LATEST_S = 253402300799.0  # the last second of the year 9999
_LARGEST = (1 << 63) - 1
_LEAST_CULPRIT_S, _LEAST_SHARE = 0.1, 0.25  # of a save, that one rank's delay must take to be told


@dataclass(frozen=True, slots=True)
class PastSave:
    """One save that has ended.

    Attributes:
        save_id: which one.
        step: the training step; None for one without.
        outcome: ``committed``; ``aborted``, when a rank was lost, late or gave up; ``refused``, when it must not begin;
            ``failed``, when the store or the disk let it down.
        began_at: wall clock, when its first rank declared it.
        duration_s: from then to its end.
        prefix: what its files share, within the run.
        size_bytes: of the checkpoint; 0 where it was not planned.
        world_size: of how many ranks.
        phases_s: how long each phase took that it came to the end of, in their order.
        received_bytes: by the way they came: ``shm``, ``grpc``.
        stall_s: how long its call made training stand still, by what it was for, on the rank where that was longest of
            those that told; empty while none has.
        lag_s: how long after the median rank's last byte the slowest one's came; None of fewer than two ranks.
        slowest_rank: the rank whose last byte came last.
        last_to_declare: the rank that declared last.
        error: the class of what ended it; "" of a committed one.
        reason: what that said, the culprit included.
    """

    save_id: str
    step: int | None
    outcome: str
    began_at: float
    duration_s: float
    prefix: str = ""
    size_bytes: int = 0
    world_size: int = 0
    phases_s: Mapping[str, float] = field(default_factory=dict)
    received_bytes: Mapping[str, int] = field(default_factory=dict)
    stall_s: Mapping[str, float] = field(default_factory=dict)
    lag_s: float | None = None
    slowest_rank: int | None = None
    last_to_declare: int | None = None
    error: str = ""
    reason: str = ""

    @property
    def ended_at(self) -> float:
        """When it ended, wall clock."""
        return self.began_at + self.duration_s

    @property
    def total_stall_s(self) -> float | None:
        """How long training stood still for it in all; None where no rank has told."""
        return sum(self.stall_s.values()) if self.stall_s else None

    @property
    def culprit(self) -> str:
        """What held it up or ended it, in words; "" where nothing stands out."""
        if self.outcome != COMMITTED:
            return self.reason
        least_s = max(_LEAST_CULPRIT_S, _LEAST_SHARE * self.duration_s)
        declare_s = self.phases_s.get("declare", 0.0)
        if self.world_size > 1 and self.last_to_declare is not None and declare_s >= least_s:
            return f"rank {self.last_to_declare} declared last, after {describe_seconds(declare_s)}"
        if self.slowest_rank is not None and (self.lag_s or 0.0) >= least_s:
            return f"rank {self.slowest_rank} was {describe_seconds(self.lag_s or 0.0)} later than the median"
        return ""

    def with_stall(self, stall_s: Mapping[str, float]) -> Self:
        """Return it with what one more rank has told: the longest counts."""
        return replace(self, stall_s=dict(stall_s)) if sum(stall_s.values()) > (self.total_stall_s or 0.0) else self

    def encode(self) -> bytes:
        """Return the line, with its end."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        kept = {name: _rounded(value) for name, value in fields.items() if value not in (None, "", {})}
        if self.reason:
            kept["reason"] = self.reason[:_MOST_TEXT]
        text = json.dumps(kept, separators=(",", ":")).encode()
        return b"%08x %s\n" % (crc32c(text), text)

    @classmethod
    def decode(cls, line: bytes) -> Self:
        """Read a line, without its end.

        Raises:
            CorruptionError: it is none.
        """
        summed, _, text = line.partition(b" ")
        try:
            if int(summed, 16) != crc32c(text):
                raise CorruptionError("a line of the history is damaged")
            told = json.loads(text)
            step = told.get("step")
            return cls(
                str(told["save_id"]),
                None if step is None else _whole(step),
                str(told["outcome"]),
                _seconds(told["began_at"]),
                _seconds(told["duration_s"]),
                str(told.get("prefix", "")),
                _whole(told.get("size_bytes", 0)),
                _whole(told.get("world_size", 0)),
                {str(name): _seconds(value) for name, value in told.get("phases_s", {}).items()},
                {str(name): _whole(value) for name, value in told.get("received_bytes", {}).items()},
                {str(name): _seconds(value) for name, value in told.get("stall_s", {}).items()},
                _or_none(told.get("lag_s"), _seconds),
                _or_none(told.get("slowest_rank"), _whole),
                _or_none(told.get("last_to_declare"), _whole),
                str(told.get("error", "")),
                str(told.get("reason", "")),
            )
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise CorruptionError("a line of the history is damaged") from error


def key_of(run: str) -> str:
    """Return where the history of a run is."""
    return join(run, NAME)


def read(store: Store, run: str) -> list[PastSave]:
    """Return what is kept of a run, oldest first; nothing where there is no history, or none that can be read.

    Raises:
        CkptdError: the store does not answer, or refuses.
    """
    try:
        data = store.get(key_of(run), limit_bytes=MOST_BYTES)
    except (NotFoundError, CorruptionError):
        return []
    return decode(data)


def decode(data: bytes) -> list[PastSave]:
    """Return the saves whose lines are whole."""
    found = []
    for line in data.splitlines():
        try:
            found.append(PastSave.decode(line))
        except CorruptionError:
            continue
    return found[-MOST_SAVES:]


def encode(saves: Iterable[PastSave]) -> bytes:
    """Return the object that keeps these."""
    return b"".join(each.encode() for each in saves)


def merged(stored: Sequence[PastSave], ours: Sequence[PastSave]) -> list[PastSave]:
    """Return both, oldest first, each save once: of one that is in both, ours counts."""
    by_save = {(each.save_id, each.outcome): each for each in (*stored, *ours)}
    return sorted(by_save.values(), key=lambda each: each.ended_at)[-MOST_SAVES:]


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, Mapping):
        return {name: _rounded(each) for name, each in value.items()}
    return value


def _seconds(value: Any) -> float:
    seconds = float(value)
    if not math.isfinite(seconds) or abs(seconds) > _LATEST_S:
        raise ValueError("no time")
    return seconds


def _whole(value: Any) -> int:
    number = int(value)
    if not 0 <= number <= _LARGEST:
        raise ValueError("no number")
    return number


def _or_none(value: Any, read_it: Any) -> Any:
    return None if value is None else read_it(value)
