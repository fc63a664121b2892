"""Checks of a `Checkpointer`'s arguments. What is not allowed raises `InvalidRequestError`."""

from __future__ import annotations

import operator
import time
from typing import Any

from ckptd.engine.catalog.retention import RetentionPolicy, Rule
from ckptd.engine.identity import RunOptions
from ckptd.errors import InvalidRequestError
from ckptd.format import names as naming


def check_step(step: Any) -> int:
    """Return a step; numpy's whole numbers are steps too."""
    try:
        number = operator.index(step) if not isinstance(step, bool) else -1
    except (TypeError, ValueError, RuntimeError):  # what arrays of several frameworks raise
        number = -1
    if not 0 <= number <= naming.MAX_STEP:
        looks_whole = isinstance(step, float) or getattr(step, "size", None) == 1 or hasattr(step, "item")
        way = "; int(step) makes one of it" if looks_whole else ""
        raise InvalidRequestError(f"a step is a whole number from 0 on{way}", actual=repr(step))
    return number


def check_latest_filename(name: str) -> str:
    """Return the state file's name if it is one, and no path."""
    if "/" in name:
        raise InvalidRequestError("'latest_filename' must not contain path components", actual=name)
    return naming.check_state_name(name)


def check_timeout(timeout_s: Any) -> None:
    """Refuse what is not a number of seconds above zero."""
    if not (isinstance(timeout_s, (int, float)) and timeout_s > 0):
        raise InvalidRequestError("timeout_s is a number of seconds above zero", actual=timeout_s)


def is_for_first_only(write_meta_graph: str) -> bool:
    """Return whether only the first checkpoint that brings a meta graph gets a file with it."""
    if write_meta_graph not in ("each", "first"):
        raise InvalidRequestError("write_meta_graph", expected="each or first", actual=repr(write_meta_graph))
    return write_meta_graph == "first"


def run_options(
    *,
    name: str,
    max_to_keep: int | None,
    keep_checkpoint_every_n_hours: float | None,
    pad_step_number: bool,
    latest_filename: str,
    retention: str,
    save_relative_paths: bool,
) -> RunOptions:
    """Return the options of a run, each as `Checkpointer` describes it."""
    RetentionPolicy(max_to_keep, keep_checkpoint_every_n_hours, Rule.named(retention))  # raises for invalid values
    return RunOptions(
        name=naming.check_checkpoint_name(name),
        max_to_keep=max_to_keep or None,
        keep_checkpoint_every_n_hours=keep_checkpoint_every_n_hours,
        pad_step_number=pad_step_number,
        latest_filename=check_latest_filename(latest_filename),
        retention=retention,
        save_relative_paths=save_relative_paths,
        hours_since=time.time() if retention == "manager" else None,
    )
