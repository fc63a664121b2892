"""PyTorch's state in ckptd's checkpoints, without pickle: nested state dicts, DTensors, distributed checkpointing.

Names are loaded when they are first used, so that Lightning and transformers are imported by who names them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckptd.torch.arrays import array_of, memory_of, tensor_of
    from ckptd.torch.dcp_reader import CkptdStorageReader
    from ckptd.torch.dcp_writer import CkptdStorageWriter

__all__ = [
    "CkptdStorageReader",
    "CkptdStorageWriter",
    "array_of",
    "memory_of",
    "tensor_of",
]

_HOMES = {
    "CkptdStorageReader": "ckptd.torch.dcp_reader",
    "CkptdStorageWriter": "ckptd.torch.dcp_writer",
    "array_of": "ckptd.torch.arrays",
    "memory_of": "ckptd.torch.arrays",
    "tensor_of": "ckptd.torch.arrays",
}


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'ckptd.torch' has no attribute {name!r}") from None
    value = globals()[name] = getattr(importlib.import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
