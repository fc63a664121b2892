"""When the manager saves and what it keeps: options under Orbax's names, also taken from Orbax's own."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Container
from dataclasses import dataclass, fields
from typing import Any

from ckptd.errors import InvalidRequestError

_OWN_NAMES = "checkpoints are files named after their step, and name=… names them"
_WHOLE = "a checkpoint is written whole or not at all, on every store; leave it out"
_WITHOUT_COUNTERPART = {
    "atomicity_options": _WHOLE,
    "best_fn": "metrics are saved in the tree; `checkpointer.pin(step)` keeps the best",
    "step_name_format": _OWN_NAMES,
    "step_prefix": _OWN_NAMES,
    "temporary_path_class": _WHOLE,
    "todelete_full_path": "what is deleted is not moved elsewhere",
    "todelete_subdir": "what is deleted is not moved elsewhere",
}
"""Options that would silently do something else than requested, and what to do instead."""

_ARGUMENTS = {
    "checkpointers": "leave them out: save(step, tree), or save(step, {'params': …, 'meta': …})",
    "handler_registry": "leave it out: a tree is saved without handlers",
    "item_handlers": "give item_names=…, or nothing: a tree is saved without handlers",
    "logger": "the logger 'ckptd.jax' reports each save",
    "metadata": "save it in the tree",
}
"""Arguments of Orbax's manager that this one has not, and what to do."""

_OF_CALLS = {
    "directory": "open a CheckpointManager there, or ckptd.jax.load(directory, target)",
    "restore_kwargs": "restore(step, target), or args=PyTreeRestore(target, restore_args=…)",
    "save_kwargs": "cast what is saved before it is saved",
}
"""Likewise of `save` and `restore`."""

_WITHOUT_MEANING = (
    "best_mode",
    "cleanup_tmp_directories",
    "create",
    "enable_background_delete",
    "enable_per_process_directory_creation",
    "keep_checkpoints_without_metrics",
    "lightweight_initialize",
    "num_deletion_threads",
    "prevent_write_metrics",
    "save_root_metadata",
    "single_host_load_and_broadcast",
)
"""Options about how Orbax works, or that matter there only with `best_fn`: the resulting checkpoints are the same."""


@dataclass(frozen=True)
class CheckpointManagerOptions:
    """What `CheckpointManager` does, under the names that Orbax has for it.

    Attributes:
        save_interval_steps: a step that this divides is saved.
        max_to_keep: how many of the newest are kept; None keeps all.
        keep_period: a step that this divides is pinned, so that it stays and does not count.
        keep_time_interval: the first step is pinned, and each that is saved so much later than the last one pinned.
        save_on_steps: steps that are saved besides.
        should_save_fn: called with a step and the latest one, None if there is none; it decides instead of the above.
        read_only: nothing is saved or deleted.
        enable_async_checkpointing: `save` returns when the arrays are copied; otherwise when they are durable.
        save_decision_policy: one of Orbax's, or what has its `should_save`; it decides instead of all the above.
        preservation_policy: one of Orbax's, or what has its `should_preserve`; it says what is kept, beside the
            newest. Not together with `max_to_keep`, `keep_period` or `keep_time_interval`.
        enable_should_save_is_saving_in_progress_check: a `save_decision_policy` is told whether a save is under way.
        async_options: Orbax's: ``timeout_secs`` bounds every wait, and ``post_finalization_callback`` is called for
            each durable save, by the thread that ends it.
    """

    save_interval_steps: int = 1
    max_to_keep: int | None = None
    keep_period: int | None = None
    keep_time_interval: datetime.timedelta | None = None
    save_on_steps: Container[int] | None = None
    should_save_fn: Callable[[int, int | None], bool] | None = None
    read_only: bool = False
    enable_async_checkpointing: bool = True
    save_decision_policy: Any = None
    preservation_policy: Any = None
    enable_should_save_is_saving_in_progress_check: bool = True
    async_options: Any = None

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
        for name, method in (("save_decision_policy", "should_save"), ("preservation_policy", "should_preserve")):
            policy = getattr(self, name)
            if policy is not None and (isinstance(policy, type) or not callable(getattr(policy, method, None))):
                raise InvalidRequestError(f"{name} is an object with a method {method}", actual=repr(policy)[:200])
        also = [
            name for name in ("max_to_keep", "keep_period", "keep_time_interval") if getattr(self, name) is not None
        ]
        if self.preservation_policy is not None and also:
            raise InvalidRequestError(f"the preservation_policy says what is kept; leave out {', '.join(also)}")
        if getattr(self.async_options, "barrier_sync_fn", None) is not None:
            raise InvalidRequestError("barrier_sync_fn of async_options has no counterpart in ckptd: leave it out")

    @classmethod
    def of(cls, options: Any, changes: dict[str, Any]) -> CheckpointManagerOptions:
        """Return options of ours from `options`, which may be Orbax's or None, and what is given besides.

        Raises:
            InvalidRequestError: something is set that has no counterpart here.
        """
        known = [field.name for field in fields(cls)]
        for name, way in _WITHOUT_COUNTERPART.items():
            if getattr(options, name, None) is not None or name in changes:
                raise InvalidRequestError(f"the option {name!r} has no counterpart in ckptd: {way}")
        for name in changes:
            if name in _ARGUMENTS:
                raise InvalidRequestError(f"{name}= has no counterpart in ckptd: {_ARGUMENTS[name]}")
            if name not in known:
                raise InvalidRequestError(f"the manager has no option {name!r}; it has {', '.join(known)}")
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

    @property
    def timeout_s(self) -> float:
        """The bound of every wait."""
        return 600.0 if self.async_options is None else float(self.async_options.timeout_secs)

    def wants(self, step: int, latest: int | None) -> bool:
        """Return whether a step that is newer than the latest is due, where no policy decides."""
        if self.should_save_fn is not None:
            return self.should_save_fn(step, latest)
        if latest is None or step % self.save_interval_steps == 0:
            return True
        return self.save_on_steps is not None and step in self.save_on_steps

    def keeps(self, step: int) -> bool:
        """Return whether a step stays for good."""
        return self.keep_period is not None and step % self.keep_period == 0


def refuse_arguments(more: dict[str, Any]) -> None:
    """Refuse extra arguments of a call, and say what to use instead.

    Raises:
        InvalidRequestError: it is an argument that Orbax's method has.
        TypeError: there is no such argument.
    """
    for name, value in more.items():
        if name not in _OF_CALLS:
            raise TypeError(f"unexpected keyword argument {name!r}")
        if value is not None:
            raise InvalidRequestError(f"{name}= has no counterpart in ckptd: {_OF_CALLS[name]}")
