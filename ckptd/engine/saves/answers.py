"""Futures that answer calls of ranks: only the engine settles them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.layout import Assignment
from ckptd.errors import CkptdError

Value = TypeVar("Value")


def answered(answer: Callable[[], Future[Assignment] | Checkpoint]) -> Future[Assignment | Checkpoint]:
    """Return a future with what `answer` returns or raises."""
    try:
        return settled(answer())
    except CkptdError as error:
        return failed(error)


def settled(answer: Future[Assignment] | Checkpoint) -> Future[Assignment | Checkpoint]:
    """Return an answer as a future."""
    if isinstance(answer, Checkpoint):
        return known(answer)
    return answer  # type: ignore[return-value]  # Future is invariant, but only we set it


def failed(error: CkptdError) -> Future[Assignment | Checkpoint]:
    """Return a future that is done, and raises this."""
    future: Future[Assignment | Checkpoint] = Future()
    future.set_exception(error)
    return future


def settled_by_engine() -> Future:  # type: ignore[type-arg]
    """Return a future that a caller which gives up cannot cancel for the others."""
    future: Future[object] = Future()
    future.set_running_or_notify_cancel()
    return future


def known(value: Value) -> Future[Value]:
    """Return a future that is done, with this."""
    future: Future[Value] = Future()
    future.set_result(value)
    return future
