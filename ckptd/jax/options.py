"""When the manager saves and what it keeps: options under Orbax's names, also taken from Orbax's own."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Container
from dataclasses import dataclass, fields
from typing import Any

from ckptd.errors import InvalidRequestError

_WITHOUT_COUNTERPART = (
    "best_fn",
    "preservation_policy",
    "save_decision_policy",
    "step_name_format",
    "step_prefix",
    "todelete_full_path",
    "todelete_subdir",
)
"""What would silently do something else than asked for, if it is set."""


_WITHOUT_MEANING = (
    "async_options",
    "atomicity_options",
    "best_mode",
    "cleanup_tmp_directories",
    "create",
    "enable_background_delete",
    "enable_per_process_directory_creation",
    "enable_should_save_is_saving_in_progress_check",
    "keep_checkpoints_without_metrics",
    "lightweight_initialize",
    "num_deletion_threads",
    "prevent_write_metrics",
    "save_root_metadata",
    "single_host_load_and_broadcast",
    "temporary_path_class",
)
"""How Orbax goes about it, which changes nothing in what is there in the end."""


@dataclass(frozen=True)
class CheckpointManagerOptions:
    """What `CheckpointManager` does, under the names that Orbax has for it.

    Attributes:
        save_interval_steps: a step that this divides is saved.
        max_to_keep: how many of the newest are kept; None keeps all.
        keep_period: a step that this divides is pinned, so that it stays and does not count.
        keep_time_interval: of those that are not kept, one for every such span of time stays.
        save_on_steps: steps that are saved besides.
        should_save_fn: called with a step and the latest one, None if there is none; it decides instead of the above.
        read_only: nothing is saved or deleted.
        enable_async_checkpointing: `save` returns when the arrays are copied; otherwise when they are durable.
    """

    save_interval_steps: int = 1
    max_to_keep: int | None = None
    keep_period: int | None = None
    keep_time_interval: datetime.timedelta | None = None
    save_on_steps: Container[int] | None = None
    should_save_fn: Callable[[int, int | None], bool] | None = None
    read_only: bool = False
    enable_async_checkpointing: bool = True

    def __post_init__(self) -> None:
        for name in ("save_interval_steps", "keep_period"):
            value = getattr(self, name)
            # Orbax makes the interval of what is read only 0.
            if value is not None and value < 1 and not self.read_only:
                raise InvalidRequestError(f"{name} is a number of steps from 1 on", actual=value)
        if self.max_to_keep is not None and self.max_to_keep < 1:
            raise InvalidRequestError("max_to_keep is a number from 1 on, or None for all", actual=self.max_to_keep)
        if self.keep_time_interval is not None and self.keep_time_interval <= datetime.timedelta(0):
            raise InvalidRequestError("keep_time_interval is above zero", actual=self.keep_time_interval)

    @classmethod
    def of(cls, options: Any, changes: dict[str, Any]) -> CheckpointManagerOptions:
        """Return options of ours from `options`, which may be Orbax's or None, and what is given besides.

        Raises:
            InvalidRequestError: something is set that has no counterpart here.
        """
        known = [field.name for field in fields(cls)]
        for name in changes:
            if name not in known:
                raise InvalidRequestError(f"the manager has no option {name!r}; it has {', '.join(known)}")
        for name in _WITHOUT_COUNTERPART:
            if getattr(options, name, None) is not None:
                raise InvalidRequestError(f"the option {name!r} has no counterpart in ckptd")
        if dataclasses.is_dataclass(options) and not isinstance(options, cls):
            kind: Any = type(options)
            usual = kind()  # Orbax makes its options of options when it is made
            for each in fields(options):
                value = getattr(options, each.name)
                if each.name not in (*known, *_WITHOUT_MEANING) and value != getattr(usual, each.name):
                    raise InvalidRequestError(
                        f"the option {each.name!r} has no counterpart in ckptd", actual=repr(value)[:200]
                    )
        given = {name: getattr(options, name) for name in known if hasattr(options, name)}
        return cls(**{**given, **changes})

    def wants(self, step: int, latest: int | None) -> bool:
        """Say whether a step is to be saved after the latest one."""
        if self.read_only or (latest is not None and latest >= step):
            return False
        if self.should_save_fn is not None:
            return self.should_save_fn(step, latest)
        if latest is None or step % self.save_interval_steps == 0:
            return True
        return self.save_on_steps is not None and step in self.save_on_steps

    def keeps(self, step: int) -> bool:
        """Say whether a step stays for good."""
        return self.keep_period is not None and step % self.keep_period == 0
