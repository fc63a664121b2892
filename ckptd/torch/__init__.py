"""PyTorch's state in ckptd's checkpoints, without pickle: nested state dicts, DTensors, distributed checkpointing.

Names are loaded when they are first used, so that Lightning and transformers are imported only if a program needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptd import lazy

if TYPE_CHECKING:
    from ckptd.torch.adapters import Adapters
    from ckptd.torch.arrays import array_of, memory_of, tensor_of
    from ckptd.torch.dcp_reader import CkptdStorageReader
    from ckptd.torch.dcp_writer import CkptdStorageWriter
    from ckptd.torch.differences import Loaded, Mismatch
    from ckptd.torch.lightning import CkptdCheckpointIO
    from ckptd.torch.loading import load
    from ckptd.torch.places import close_all
    from ckptd.torch.randomness import random_state, set_random_state
    from ckptd.torch.saving import named_parts, save
    from ckptd.torch.transformers import CkptdCallback

__all__ = [
    "Adapters",
    "CkptdCallback",
    "CkptdCheckpointIO",
    "CkptdStorageReader",
    "CkptdStorageWriter",
    "Loaded",
    "Mismatch",
    "array_of",
    "close_all",
    "load",
    "memory_of",
    "named_parts",
    "random_state",
    "save",
    "set_random_state",
    "tensor_of",
]

_HOMES = {
    "Adapters": "ckptd.torch.adapters",
    "CkptdCallback": "ckptd.torch.transformers",
    "CkptdCheckpointIO": "ckptd.torch.lightning",
    "CkptdStorageReader": "ckptd.torch.dcp_reader",
    "CkptdStorageWriter": "ckptd.torch.dcp_writer",
    "Loaded": "ckptd.torch.differences",
    "Mismatch": "ckptd.torch.differences",
    "array_of": "ckptd.torch.arrays",
    "close_all": "ckptd.torch.places",
    "load": "ckptd.torch.loading",
    "memory_of": "ckptd.torch.arrays",
    "named_parts": "ckptd.torch.saving",
    "random_state": "ckptd.torch.randomness",
    "save": "ckptd.torch.saving",
    "set_random_state": "ckptd.torch.randomness",
    "tensor_of": "ckptd.torch.arrays",
}

__getattr__, __dir__ = lazy.names(__name__, _HOMES)
