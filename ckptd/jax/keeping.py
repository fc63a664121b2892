"""Which checkpoints a manager keeps besides the newest: rank 0 pins them, and deletes the others."""

from __future__ import annotations

import datetime
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from ckptd.client.checkpointer import Checkpointer
from ckptd.client.saving.pending import PendingSave
from ckptd.engine.checkpoint import Checkpoint
from ckptd.errors import ConflictError, InvalidRequestError, UnavailableError
from ckptd.jax.options import CheckpointManagerOptions

_MAX_UNDER_WAY = 2  # saves of a `Checkpointer`
_LOOK_S = 0.1  # between two checks for what another process deletes


@dataclass(frozen=True)
class CheckpointInfo:
    """What Orbax's policies receive about a checkpoint. Metrics are saved in the tree, so they are not known here."""

    step: int
    time: datetime.datetime
    metrics: None = None

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> CheckpointInfo:
        """Return it for a checkpoint that is durable and has a step."""
        assert checkpoint.step is not None
        return cls(checkpoint.step, datetime.datetime.fromtimestamp(checkpoint.saved_at, datetime.timezone.utc))


class _Context:
    """The context that Orbax's policies receive, which is empty so far."""


class Preserver:
    """Follows `keep_period`, `keep_time_interval` and `preservation_policy`.

    On other ranks than 0, or read only, it does nothing.
    """

    def __init__(self, checkpointer: Checkpointer, options: CheckpointManagerOptions) -> None:
        self._checkpointer = checkpointer
        self._options = options
        self._is_active = checkpointer.rank == 0 and not options.read_only
        self._to_pin: list[PendingSave] = []
        self._to_judge: list[PendingSave] = []
        self._timed: set[int] = set()  # kept for `keep_time_interval`
        self._timed_at: datetime.datetime | None = None  # the newest of them

    def add(self, pending: PendingSave) -> None:
        """Follow a save that has begun."""
        if not self._is_active or pending.step is None:
            return
        is_due = self._is_due(pending.step, datetime.datetime.now(datetime.timezone.utc))
        if is_due or self._options.keeps(pending.step):
            self._to_pin.append(pending)
        if self._options.preservation_policy is not None:
            self._to_judge.append(pending)

    def take_up(self) -> None:
        """Finish the work that an earlier process left."""
        if not self._is_active:
            return
        if self._options.keep_period is not None or self._options.keep_time_interval is not None:
            for one in self._there():
                info = CheckpointInfo.of(one)
                is_due = self._is_due(info.step, info.time)
                if not one.pinned and (is_due or self._options.keeps(info.step)):
                    self._checkpointer.pin(info.step)
        if self._options.preservation_policy is not None:
            self._judge()

    def follow(self) -> None:
        """Pin a checkpoint before newer ones would cause its deletion; delete those that are not preserved."""
        is_urgent = self._options.max_to_keep is not None and self._options.max_to_keep <= _MAX_UNDER_WAY
        waiting, self._to_pin = self._to_pin, []
        for pending in waiting:
            if not pending.done() and not is_urgent:
                self._to_pin.append(pending)
                continue
            pending.wait()
            if pending.checkpoint is not None and pending.checkpoint.step is not None:
                self._checkpointer.pin(pending.checkpoint.step)
        ended = [pending for pending in self._to_judge if pending.done()]
        if ended:
            self._to_judge = [pending for pending in self._to_judge if pending not in ended]
            self._judge()

    def forget(self) -> None:
        """Forget all saves."""
        self._to_pin, self._to_judge = [], []

    def delete(self, step: int, *, even_latest: bool = False) -> None:
        """Delete a checkpoint, though it was kept."""
        if not self._is_active:
            return
        self._to_pin = [pending for pending in self._to_pin if pending.step != step]
        if self._is_kept(step):
            self._checkpointer.unpin(step)
        self._checkpointer.delete(step, even_latest=even_latest)
        self._timed.discard(step)

    def delete_abandoned(self, steps: Collection[int]) -> None:
        """Delete steps, the newest first; on other ranks than 0 wait until that is done.

        Raises:
            ConflictError: one is pinned for another reason than these options; nothing is deleted.
            UnavailableError: rank 0 has not deleted them within `timeout_s`.
        """
        there = {one.step: one for one in self._checkpointer.checkpoints()}
        pinned = [step for step in steps if step in there and there[step].pinned and not self._is_kept(step)]
        # Other ranks cannot tell what rank 0 has pinned because of the time.
        if pinned and (self._is_active or self._options.keep_time_interval is None):
            raise ConflictError(
                f"abandoned steps are pinned, by checkpointer.pin or under other options: {pinned}. Nothing is "
                "deleted; checkpointer.unpin(step) makes one deletable"
            )
        if self._is_active:
            for step in sorted(steps, reverse=True):
                self.delete(step, even_latest=True)
            return
        ends = time.monotonic() + self._checkpointer.timeout_s
        while left := {one.step for one in self._checkpointer.checkpoints()}.intersection(steps):
            if time.monotonic() > ends:
                raise UnavailableError(
                    "rank 0 has not deleted the abandoned steps: does it call roll_back too?", actual=left
                )
            time.sleep(_LOOK_S)

    def _is_kept(self, step: int) -> bool:
        """Return whether these options have it pinned."""
        return self._options.keeps(step) or step in self._timed

    def _there(self) -> list[Checkpoint]:
        """Return what is durable and has a step, in their order."""
        return sorted(
            (one for one in self._checkpointer.checkpoints() if one.step is not None), key=lambda one: one.step or 0
        )

    def _is_due(self, step: int, now: datetime.datetime) -> bool:
        """Return whether a step is kept because of the time since the last one that was, and count from it then."""
        interval = self._options.keep_time_interval
        if interval is None or (self._timed_at is not None and now - self._timed_at < interval):
            return False
        self._timed.add(step)
        self._timed_at = now
        return True

    def _judge(self) -> None:
        """Delete what the policy does not preserve; the newest stays, as a job that is killed now needs it."""
        policy: Any = self._options.preservation_policy
        there = self._there()
        if not there:
            return  # many policies depend on the last one
        preserved = list(policy.should_preserve([CheckpointInfo.of(one) for one in there], context=_Context()))
        if len(preserved) != len(there):
            raise InvalidRequestError(
                f"the preservation_policy answers for each of {len(there)} checkpoints", actual=preserved
            )
        for one, stays in list(zip(there, preserved, strict=True))[:-1]:
            if not stays and not one.pinned and one.step is not None:
                self._checkpointer.delete(one.step, for_good=True)
