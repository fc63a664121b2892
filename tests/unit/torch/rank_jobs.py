"""What the processes of `gloo.Ranks` are asked to do with state that is not the same on every rank."""

from __future__ import annotations

import torch

import ckptd
from ckptd.torch import load, save


def save_own(rank, world_size, address, run, states):
    """Save the rank's own of `states`; return what was said when that failed."""
    with ckptd.Checkpointer(address, run, rank=rank, world_size=world_size) as checkpointer:
        try:
            save(states[rank], checkpointer, 1).result(60)
        except ckptd.CkptdError as error:
            return str(error)
    return ""


def load_into_own(rank, world_size, address, run, states):
    """Load into the rank's own of `states`."""
    with ckptd.Checkpointer(address, run, rank=rank, world_size=world_size) as checkpointer:
        loaded = load(checkpointer, into=states[rank])
        return {**loaded, "w": loaded["w"].numpy()} if isinstance(loaded.get("w"), torch.Tensor) else loaded
