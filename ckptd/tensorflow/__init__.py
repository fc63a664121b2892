"""TensorFlow's own ways of saving, over ckptd: `Saver` and its hook for sessions, and what freezes their graphs.

Names are loaded when they are first used, as in `ckptd` itself; only then is TensorFlow imported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckptd.tensorflow.freeze import freeze
    from ckptd.tensorflow.hook import CheckpointSaverHook
    from ckptd.tensorflow.keras_callback import ModelCheckpoint
    from ckptd.tensorflow.keras_weights import load_model, load_weights, save_weights
    from ckptd.tensorflow.manager import CheckpointManager
    from ckptd.tensorflow.meta_graphs import import_meta_graph
    from ckptd.tensorflow.restoring import restore
    from ckptd.tensorflow.saver import Saver

__all__ = [
    "CheckpointManager",
    "CheckpointSaverHook",
    "ModelCheckpoint",
    "Saver",
    "freeze",
    "import_meta_graph",
    "load_model",
    "load_weights",
    "restore",
    "save_weights",
]

_HOMES = {
    "CheckpointManager": "ckptd.tensorflow.manager",
    "CheckpointSaverHook": "ckptd.tensorflow.hook",
    "ModelCheckpoint": "ckptd.tensorflow.keras_callback",
    "Saver": "ckptd.tensorflow.saver",
    "freeze": "ckptd.tensorflow.freeze",
    "import_meta_graph": "ckptd.tensorflow.meta_graphs",
    "load_model": "ckptd.tensorflow.keras_weights",
    "load_weights": "ckptd.tensorflow.keras_weights",
    "restore": "ckptd.tensorflow.restoring",
    "save_weights": "ckptd.tensorflow.keras_weights",
}


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'ckptd.tensorflow' has no attribute {name!r}") from None
    value = globals()[name] = getattr(importlib.import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
