"""When a training loop should save, as Estimators did.

The rule is that of TensorFlow's CheckpointSaverHook: a save before the first step, one every so many seconds or steps,
and one at the end, never twice at the same step. Source: TensorFlow
``tensorflow/python/training/basic_session_run_hooks.py``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from ckptd.errors import InvalidRequestError

_DEFAULT_S: float = 600.0
"""The default as one object: `is` shows that it was not given, so a caller can pass 600 too."""


class SavePolicy:
    """Says after each step whether to save. Not for several threads at once.

    ::

        policy = ckptd.SavePolicy(every_steps=100)
        if policy.begin(step):
            save()
        while step < last_step:
            step = train_one_step()
            if policy.after_step(step):
                save()
        if policy.end(step):
            save()

    A policy that counts steps gives every rank the same answer. The clocks of several ranks never agree on seconds: let
    one rank decide, and tell the others.
    """

    def __init__(
        self,
        every_s: float | None = _DEFAULT_S,
        every_steps: int | None = None,
        first: bool = True,
        last: bool = True,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Set the rule.

        Args:
            every_s: seconds from one save to the next. The default does not count when `every_steps` is given; None
                for both is no saving between `first` and `last`.
            every_steps: steps from one save to the next.
            first: whether to save before training, also when that step was just restored.
            last: whether to save at the end, unless the last step was saved already.
            now: seconds on a clock that only runs forward.

        Raises:
            InvalidRequestError: for an interval that is not above 0, and when both are given.
        """
        if every_steps is not None and every_s is not None:
            if every_s is not _DEFAULT_S:
                raise InvalidRequestError("`every_steps` and `every_s` cannot be both set.")
            every_s = None
        for what, value in (("every_s", every_s), ("every_steps", every_steps)):
            if value is not None and not 0 < value < math.inf:
                raise InvalidRequestError(f"{what} must be above 0", actual=value)
        self.every_s = every_s
        self.every_steps = every_steps
        self.first = first
        self.last = last
        self._now = now
        self._last_step: int | None = None
        self._last_s = 0.0

    def begin(self, step: int) -> bool:
        """Say whether to save before training from `step` on, and start counting there."""
        self._start_from(step)
        return self.first

    def after_step(self, step: int) -> bool:
        """Say whether to save now that `step` is done. Without `begin`, the first call is taken for it."""
        if self._last_step is None:
            return self.begin(step)
        if step == self._last_step or not self._is_due(step):
            return False
        self._start_from(step)
        return True

    def end(self, step: int) -> bool:
        """Say whether to save at the end of training. May be called again: the answer is the same."""
        return self.last and step != self._last_step

    def __repr__(self) -> str:
        return (
            f"SavePolicy(every_s={self.every_s}, every_steps={self.every_steps}, first={self.first}, last={self.last})"
        )

    def _is_due(self, step: int) -> bool:
        assert self._last_step is not None  # `after_step` has decided
        if self.every_s is not None:
            return self._now() >= self._last_s + self.every_s
        if self.every_steps is not None:
            return step >= self._last_step + self.every_steps
        return False

    def _start_from(self, step: int) -> None:
        self._last_step = step
        self._last_s = self._now()
