"""What the processes of `gloo.Ranks` do with what rank 0 has loaded."""

from __future__ import annotations

import torch

import ckptd
from ckptd.torch.handing_out import from_rank_0

LOADED = {
    "a": [torch.arange(6.0).reshape(2, 3).T, (torch.tensor(True), None, "x")],
    2: {"bf": torch.tensor([1.5, -2.0]).bfloat16(), "f8": torch.tensor([0.5]).to(torch.float8_e4m3fn)},
    "empty": torch.empty(0, 3),
    "scalar": torch.tensor(7, dtype=torch.int64),
}


def hand_out(rank, world_size):
    return str(from_rank_0(lambda: LOADED if rank == 0 else None))


def fail(rank, world_size):
    def load():
        raise ckptd.NotFoundError("nothing there")

    try:
        from_rank_0(load)
    except ckptd.NotFoundError as error:
        return str(error)
