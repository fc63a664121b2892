"""Reading one step of a manager; if the latest one is damaged, the newest that verifies is read instead."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from ckptd.client.checkpointer import Checkpointer
from ckptd.client.options import check_step
from ckptd.client.restoring.reader import CheckpointReader
from ckptd.errors import CorruptionError
from ckptd.jax.deciding import Decider

R = TypeVar("R")

_LOG = logging.getLogger("ckptd.jax")


def read_step(
    checkpointer: Checkpointer, decider: Decider, step: int | None, read: Callable[[CheckpointReader], R]
) -> R:
    """Call `read` with a checkpoint, and return what it returns.

    Args:
        checkpointer: of the run.
        decider: reads the steps again when one is damaged: that step may be saved again then.
        step: None is the latest. If it is damaged, a single process goes back to the newest that verifies, and the log
            says so. In a job of several processes the error is raised.
        read: may be called again with an older checkpoint.

    Raises:
        NotFoundError: no such checkpoint.
        CorruptionError: the bytes are wrong.
    """
    if step is not None:
        return _read(checkpointer, decider, check_step(step), read)
    while True:
        newest = decider.look()
        try:
            return _read(checkpointer, decider, None, read)
        except CorruptionError as error:
            older = decider.look()  # the reader has had the damage confirmed
            if checkpointer.world_size > 1 or newest is None or older is None or older >= newest:
                raise
            _LOG.warning("step %d is damaged, and step %d is restored instead: %s", newest, older, error)


def _read(checkpointer: Checkpointer, decider: Decider, step: int | None, read: Callable[[CheckpointReader], R]) -> R:
    try:
        return read(checkpointer.reader(step))
    except CorruptionError:
        decider.forget()  # the step may be in quarantine now, and may be saved again
        raise
