"""Decide whether to save a step: from the options, the existing steps, and the platform's notice to stop the job."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jax.experimental import multihost_utils

from ckptd.client.checkpointer import Checkpointer
from ckptd.jax.keeping import CheckpointInfo
from ckptd.jax.options import CheckpointManagerOptions
from ckptd.jax.under_way import SavesUnderWay

_LOG = logging.getLogger("ckptd.jax")


@dataclass(frozen=True)
class _Processes:
    """Orbax's defaults of its `MultiprocessingOptions`; others are refused."""

    primary_host: int = 0
    active_processes: None = None
    barrier_sync_key_prefix: None = None


@dataclass(frozen=True)
class _Context:
    """The context that Orbax's policies receive besides the steps."""

    is_saving_in_progress: bool
    reached_preemption: bool
    multiprocessing_options: _Processes = field(default_factory=_Processes)


def reached_preemption(step: int) -> bool:
    """Return whether the platform has announced that it will stop this job, and all its processes are at this step."""
    try:
        return bool(multihost_utils.reached_preemption_sync_point(step))
    except RuntimeError:  # JAX watches for it only in a distributed job
        return False


class Decider:
    """Knows the newest step that exists or was begun, and decides whether to save a step.

    Args:
        checkpointer: of the run; its steps are listed once.
        options: when to save.
        take_up: called when they have been listed.
        under_way: the saves that were begun.
    """

    def __init__(
        self,
        checkpointer: Checkpointer,
        options: CheckpointManagerOptions,
        take_up: Callable[[], None],
        under_way: SavesUnderWay,
    ) -> None:
        self._checkpointer = checkpointer
        self._options = options
        self._take_up = take_up
        self._under_way = under_way
        self._latest: int | None = None
        self._has_looked = False
        self._has_told_of_orbax = False
        self._told_of: int | None = None
        self._previous: list[CheckpointInfo] = []  # for a policy

    @property
    def latest(self) -> int | None:
        """The newest step that exists or was begun."""
        if not self._has_looked:
            self._latest = self.look()
            self._has_looked = True
            self._take_up()
            if self._options.save_decision_policy is not None:
                there = [CheckpointInfo.of(one) for one in self._checkpointer.checkpoints() if one.step is not None]
                self._previous = sorted(there, key=lambda one: one.step)
        return self._latest

    def look(self) -> int | None:
        """Return the newest step that is durable, once all saves have ended."""
        self._checkpointer.settle()
        checkpoint = self._checkpointer.latest()
        if checkpoint is None:
            self._tell_of_orbax()
            return None
        return checkpoint.step

    def _tell_of_orbax(self) -> None:
        """Warn once if there are only checkpoints of Orbax: the job would start from scratch beside them."""
        if self._has_told_of_orbax:
            return
        self._has_told_of_orbax = True
        directory = Path(self._checkpointer.prefix_of(0)).parent
        steps = sorted(each.parent.name for each in directory.glob("*/_CHECKPOINT_METADATA"))
        if steps:
            _LOG.warning(
                "%s holds checkpoints of Orbax (%s), which ckptd does not read: to go on from one, restore it with "
                "Orbax and save it here",
                directory,
                ", ".join(steps[-5:]),
            )

    def forget(self) -> None:
        """List the steps again, next time."""
        self._has_looked = False

    def begun(self, step: int) -> None:
        """Note a save."""
        latest = self.latest
        self._latest = step if latest is None else max(step, latest)
        if self._options.save_decision_policy is not None:
            self._previous.append(CheckpointInfo(step, _now()))

    def went_back(self, step: int) -> None:
        """Note that all steps after this one are deleted, even if this process did not see that."""
        self._latest, self._has_looked = step, True
        self._previous = [one for one in self._previous if one.step <= step]

    def should_save(self, step: int) -> bool:
        """Return whether to save this step; all processes call it together."""
        latest = self.latest
        if self._options.read_only:
            return False
        if step in self._under_way.failed and all(one.step != step for one in self._checkpointer.checkpoints()):
            return True  # it was due before
        if latest is not None and latest >= step:
            return False
        policy: Any = self._options.save_decision_policy
        if policy is None:
            return self._options.wants(step, latest) or reached_preemption(step)
        is_saving = (
            self._options.enable_should_save_is_saving_in_progress_check and self._under_way.is_any_in_progress()
        )
        context = _Context(is_saving, reached_preemption(step))
        return bool(policy.should_save(CheckpointInfo(step, _now()), previous_steps=self._previous, context=context))

    def tell_if_behind(self, step: int) -> None:
        """Log, once for each newest step, that a step is skipped because newer ones exist."""
        latest, options = self.latest, self._options
        if latest is None or step >= latest or latest == self._told_of or options.read_only:
            return
        # The deciding function has been called with the newest step; it is not called with an invented one.
        has_rule = options.should_save_fn is not None or options.save_decision_policy is not None
        if has_rule or options.wants(step, step - 1):
            self._told_of = latest
            _LOG.warning(
                "step %d is not saved, nor are others up to %d, as newer ones exist: after a rollback call "
                "roll_back(step) with the step that the job went back to, or save(…, overwrite=True)",
                step,
                latest,
            )


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)
