"""The events: plain values, each complete in itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from ckptd.engine.checkpoint import Checkpoint
from ckptd.errors import CkptdError


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What all events have.

    Attributes:
        kind: what happened, as a word: "saved", "failed", "slow", "restored" or "fell back".
        run: of which run.
        rank: of this process: each process hears of its own saves and restores.
        world_size: how many processes save together.
        step: of which step; None for a checkpoint without one.
        at: when, wall-clock seconds since the epoch.
    """

    kind: ClassVar[str] = ""

    run: str
    rank: int
    world_size: int
    step: int | None
    at: float

    def metrics(self) -> Mapping[str, float]:
        """Return the event's numbers by name, as loggers of metrics take them: ``ckptd/stall_seconds``."""
        return {}

    def __str__(self) -> str:
        """Return it as a line for people."""
        return f"{self._what} of {self.run}: {self.kind}"

    @property
    def _what(self) -> str:
        return "the checkpoint without a step" if self.step is None else f"step {self.step}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved(Event):
    """A save is durable, and the state file names it.

    Attributes:
        checkpoint: what was saved, by all ranks.
        stall: seconds that the call of `save` made this process wait, by cause: "waiting" for saves before it,
            "preparing", "copying", "declaring".
        durable_s: seconds from the call until it was durable. Less than the stall where that was before the call
            returned, as with small saves.
    """

    kind: ClassVar[str] = "saved"

    checkpoint: Checkpoint
    stall: Mapping[str, float] = field(default_factory=dict)
    durable_s: float

    def metrics(self) -> Mapping[str, float]:
        """Return stall and its parts, seconds until durable, bytes of the checkpoint, and bytes a second."""
        rate = self.checkpoint.size_bytes / self.durable_s if self.durable_s > 0 else 0.0
        return {
            **_stalls(self.stall),
            "ckptd/durable_seconds": self.durable_s,
            "ckptd/bytes": float(self.checkpoint.size_bytes),
            "ckptd/bytes_per_second": rate,
            "ckptd/failed": 0.0,
        }

    def __str__(self) -> str:
        return (
            f"{self._what} of {self.run} is saved: {self.checkpoint.size_bytes:,} bytes in {self.durable_s:.2f} s, "
            f"training waited {sum(self.stall.values()):.2f} s"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Event):
    """A save has failed; checkpoints before it are as they were.

    Attributes:
        error: why. Its message names the rank, host or object that is the cause.
        stall: as in `Saved`.
        after_s: seconds from the call until it failed.
        is_open: whether the daemon may still save it, because it could not be asked.
    """

    kind: ClassVar[str] = "failed"

    error: CkptdError
    stall: Mapping[str, float] = field(default_factory=dict)
    after_s: float
    is_open: bool = False

    def metrics(self) -> Mapping[str, float]:
        """Return stall and its parts, and that one has failed."""
        return {**_stalls(self.stall), "ckptd/failed": 1.0}

    def __str__(self) -> str:
        ends = "may be lost" if self.is_open else "is not saved"
        return f"{self._what} of {self.run} {ends}: {type(self.error).__name__}: {self.error}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slow(Event):
    """A save has been under way for 30 s, and for twice as long as is usual for this process. Told once for each save.

    Attributes:
        waited_s: seconds since the save began.
        waiting_for: what it waits for, as the line in the log has it.
    """

    kind: ClassVar[str] = "slow"

    waited_s: float
    waiting_for: str

    def metrics(self) -> Mapping[str, float]:
        """Return for how long it has been under way."""
        return {"ckptd/slow_seconds": self.waited_s}

    def __str__(self) -> str:
        return f"{self._what} of {self.run} is under way for {self.waited_s:.0f} s and waits for {self.waiting_for}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored(Event):
    """This process has restored a checkpoint, or a part of it.

    Attributes:
        checkpoint: which.
        size_bytes: of the arrays that this call has returned.
        seconds: that the call took.
    """

    kind: ClassVar[str] = "restored"

    checkpoint: Checkpoint
    size_bytes: int
    seconds: float

    def metrics(self) -> Mapping[str, float]:
        """Return seconds, and bytes."""
        return {"ckptd/restore_seconds": self.seconds, "ckptd/restored_bytes": float(self.size_bytes)}

    def __str__(self) -> str:
        return f"{self._what} of {self.run} is restored: {self.size_bytes:,} bytes in {self.seconds:.2f} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class FellBack(Event):
    """The latest checkpoint was damaged, and an older one was restored. A `Restored` of that one follows.

    Attributes:
        damaged_step: the latest.
        reason: what was found, of each that was passed by.
    """

    kind: ClassVar[str] = "fell back"

    damaged_step: int | None
    reason: str

    def __str__(self) -> str:
        return f"{self._what} of {self.run} is restored, as step {self.damaged_step} is damaged: {self.reason}"


def _stalls(stall: Mapping[str, float]) -> dict[str, float]:
    parts = {f"ckptd/stall_{part}_seconds": seconds for part, seconds in stall.items()}
    return {"ckptd/stall_seconds": sum(stall.values()), **parts} if parts else {}
