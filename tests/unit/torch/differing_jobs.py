"""What the processes of `gloo.Ranks` are asked to save, each with values of its own under names that all have."""

from __future__ import annotations

import contextlib
import logging

import ckptd
from ckptd.torch import save


@contextlib.contextmanager
def heard():
    """Collect what the client warns of."""
    lines = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("ckptd.client")
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


def save_states(rank, world_size, address, run, states, options=None, steps=1, may_differ=()):
    """Save the rank's own of `states`; return what was said, as warnings or by errors."""
    options = {"timeout_s": 30.0, **(options or {})}
    with heard() as lines, ckptd.Checkpointer(address, run, rank=rank, world_size=world_size, **options) as ckpt:
        try:
            for step in range(1, steps + 1):
                save(states[rank], ckpt, step, may_differ=may_differ).result(60)
        except ckptd.CkptdError as error:
            lines.append(f"{type(error).__name__}: {error}")
    return lines


def save_arrays(rank, world_size, address, run, arrays, options=None):
    """Save the rank's own of `arrays`, without torch; return what was said."""
    with heard() as lines, ckptd.Checkpointer(address, run, rank=rank, world_size=world_size, **(options or {})) as one:
        try:
            one.save(1, arrays[rank]).result(60)
        except ckptd.CkptdError as error:
            lines.append(f"{type(error).__name__}: {error}")
    return lines
