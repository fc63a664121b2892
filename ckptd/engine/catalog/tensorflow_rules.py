"""The two rules by which TensorFlow's users let old checkpoints go, exactly as they know them. Pure.

`SaverHousekeeping` is that of ``tf.compat.v1.train.Saver`` (source ``tensorflow/python/training/saver.py``),
`ManagerHousekeeping` that of ``tf.train.CheckpointManager`` (source ``tensorflow/python/checkpoint/
checkpoint_management.py``). Both only keep lists of paths and times: the caller writes the state file and
deletes the files, in this order. What ckptd adds (pins, readers, proof of ownership) is in `retention` and above.

How they differ: a Saver lets at most one go per save, keeps for good by the time of leaving relative to a clock that
starts with the process, and compares with ``>``; a manager lets all surplus go, keeps for good by the distance from the
one kept last, which the state file remembers, and compares with ``>=``.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import InitVar, dataclass, field

HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Leaving:
    """One that has left the list.

    Attributes:
        path: as it was recorded.
        saved_at: the time it was recorded with, wall clock.
        is_kept: its files stay for good; otherwise they are to be deleted now.
    """

    path: str
    saved_at: float
    is_kept: bool


@dataclass(slots=True)
class SaverHousekeeping:
    """What one Saver remembers.

    A save is `record`, then writing the state file with the paths in `last` (only the new one if that is empty), then
    `next_victim` once, and deleting what it names.

    Args:
        max_to_keep: how long `last` gets; 0 and None remember nothing, and nothing is ever deleted.
        hours: of those that leave, one per this many hours is kept. It is rounded to float32, as SaverDef does it:
            0.7 hours are 2519.99995708… seconds.
        built_at: when the Saver was built, wall clock: the first interval starts here, at every start of a process.

    Attributes:
        last: (path, time), oldest first.
        doomed: those that left `last` and whose turn to be deleted has not come.
        next_keep: one saved strictly after this is kept for good when it leaves; then this moves by one interval, not
            to one interval from now. So after a long pause every one that leaves is kept until it has caught up.
    """

    max_to_keep: int | None
    hours: float
    built_at: InitVar[float]
    last: list[tuple[str, float]] = field(default_factory=list)
    doomed: list[tuple[str, float]] = field(default_factory=list)
    next_keep: float = field(init=False)

    def __post_init__(self, built_at: float) -> None:
        self.hours = as_float32(self.hours)
        self.next_keep = built_at + self.interval_s

    @property
    def interval_s(self) -> float:
        """The hours, in seconds."""
        return self.hours * HOUR_S

    @property
    def paths(self) -> list[str]:
        """The list, oldest first: what `Saver.last_checkpoints` gives."""
        return [path for path, _ in self.last]

    def record(self, path: str, now: float) -> None:
        """Note a save. An equal path moves to the end; one at most leaves, so a list that is too long stays as long."""
        if not self.max_to_keep:
            return
        self.last = [(known, at) for known, at in self.last if known != path]
        self.last.append((path, now))
        if len(self.last) > self.max_to_keep:
            self.doomed.append(self.last.pop(0))

    def next_victim(self) -> Leaving | None:
        """Decide about the first that is doomed, after the state file was written; None if none is."""
        if not self.doomed:
            return None
        path, saved_at = self.doomed.pop(0)
        is_kept = saved_at > self.next_keep
        if is_kept:
            self.next_keep += self.interval_s
        return Leaving(path, saved_at, is_kept)

    def recover(self, found: Iterable[tuple[str, float]]) -> None:
        """Take over what an earlier process left: paths whose index is there, with its time of modification.

        Only whole seconds count, as in TensorFlow. `next_keep` stays: the interval began when this Saver was built.
        """
        self.last = [(path, math.floor(at)) for path, at in found]


@dataclass(slots=True)
class ManagerHousekeeping:
    """What one CheckpointManager remembers. Make one with `start`.

    A save is `record`, then `sweep`, writing the state file with the paths and times of `active` and with `preserved`,
    and deleting what `sweep` named.

    Attributes:
        max_to_keep: how many stay active; None keeps all.
        hours: of those that leave, one per this many hours is kept; None keeps none.
        preserved: when the one kept last was saved.
        active: path → time, oldest first.
    """

    max_to_keep: int | None
    hours: float | None
    preserved: float
    active: dict[str, float] = field(default_factory=dict)

    @classmethod
    def start(
        cls,
        max_to_keep: int | None,
        hours: float | None,
        now: float,
        *,
        paths: Sequence[str] = (),
        timestamps: Sequence[float] = (),
        last_preserved: float | None = None,
    ) -> ManagerHousekeeping:
        """Begin at `now` with what the state file says; `last_preserved` is None exactly if there is no state file.

        Paths that are not newer than the one kept last are managed no longer, and so never deleted: all of them, if the
        file has no timestamps or the clock went back.
        """
        if last_preserved is None:
            return cls(max_to_keep, hours, now - 1)
        preserved = min(last_preserved, now)
        times = timestamps if len(timestamps) == len(paths) else [preserved] * len(paths)
        active = {path: min(at, now) for path, at in zip(paths, times, strict=True) if min(at, now) > preserved}
        return cls(max_to_keep, hours, preserved, active)

    def record(self, path: str, now: float) -> None:
        """Note a save; an equal path moves to the end."""
        self.active.pop(path, None)
        self.active[path] = now

    def sweep(self) -> list[Leaving]:
        """Let all that are too many go, oldest first."""
        leaving: list[Leaving] = []
        while self.max_to_keep and len(self.active) > self.max_to_keep:
            path = next(iter(self.active))
            saved_at = self.active.pop(path)
            is_kept = self.hours is not None and saved_at - self.hours * HOUR_S >= self.preserved
            if is_kept:
                self.preserved = saved_at
            leaving.append(Leaving(path, saved_at, is_kept))
        return leaving


def as_float32(value: float) -> float:
    """Return the nearest number that a float32 can hold; what is too large becomes infinite."""
    try:
        rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)
    return rounded
