"""What a version of torch has: tests run on the oldest that is supported, too, and on the newest."""

from __future__ import annotations

import inspect

import torch
from torch.distributed.tensor import distribute_tensor


def has(major, minor):
    """Tell whether this torch is at least so new; cases of what torch itself has only since then are made so."""
    return tuple(int(number) for number in torch.__version__.split(".")[:2]) >= (major, minor)


_NOTHING_TO_SEND = {"src_data_rank": None} if "src_data_rank" in inspect.signature(distribute_tensor).parameters else {}


def distributed(tensor, mesh, placements):
    """Return a DTensor of what every rank has whole; nothing is sent for it where this torch can do without."""
    return distribute_tensor(tensor, mesh, placements, **_NOTHING_TO_SEND)
