"""TensorFlow's own ways of saving, over ckptd: `Saver` and its hook for sessions, and freezing their graphs.

Names are loaded when they are first used, as in `ckptd` itself; only then is TensorFlow imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptd import lazy

if TYPE_CHECKING:
    from ckptd.tensorflow.freeze import freeze
    from ckptd.tensorflow.hook import CheckpointSaverHook
    from ckptd.tensorflow.keras_callback import ModelCheckpoint
    from ckptd.tensorflow.keras_weights import load_model, load_weights, save_weights
    from ckptd.tensorflow.manager import CheckpointManager
    from ckptd.tensorflow.meta_graphs import import_meta_graph
    from ckptd.tensorflow.plain import (
        CheckpointReader,
        checkpoint_exists,
        checkpoints_iterator,
        get_checkpoint_mtimes,
        get_checkpoint_state,
        latest_checkpoint,
        list_variables,
        load_checkpoint,
        load_variable,
        remove_checkpoint,
        update_checkpoint_state,
    )
    from ckptd.tensorflow.restoring import restore
    from ckptd.tensorflow.saver import Saver

__all__ = [
    "CheckpointManager",
    "CheckpointReader",
    "CheckpointSaverHook",
    "ModelCheckpoint",
    "Saver",
    "checkpoint_exists",
    "checkpoints_iterator",
    "freeze",
    "get_checkpoint_mtimes",
    "get_checkpoint_state",
    "import_meta_graph",
    "latest_checkpoint",
    "list_variables",
    "load_checkpoint",
    "load_model",
    "load_variable",
    "load_weights",
    "remove_checkpoint",
    "restore",
    "save_weights",
    "update_checkpoint_state",
]

_HOMES = {
    "CheckpointManager": "ckptd.tensorflow.manager",
    "CheckpointReader": "ckptd.tensorflow.plain",
    "CheckpointSaverHook": "ckptd.tensorflow.hook",
    "ModelCheckpoint": "ckptd.tensorflow.keras_callback",
    "Saver": "ckptd.tensorflow.saver",
    "checkpoint_exists": "ckptd.tensorflow.plain",
    "checkpoints_iterator": "ckptd.tensorflow.plain",
    "freeze": "ckptd.tensorflow.freeze",
    "get_checkpoint_mtimes": "ckptd.tensorflow.plain",
    "get_checkpoint_state": "ckptd.tensorflow.plain",
    "import_meta_graph": "ckptd.tensorflow.meta_graphs",
    "latest_checkpoint": "ckptd.tensorflow.plain",
    "list_variables": "ckptd.tensorflow.plain",
    "load_checkpoint": "ckptd.tensorflow.plain",
    "load_model": "ckptd.tensorflow.keras_weights",
    "load_variable": "ckptd.tensorflow.plain",
    "load_weights": "ckptd.tensorflow.keras_weights",
    "remove_checkpoint": "ckptd.tensorflow.plain",
    "restore": "ckptd.tensorflow.restoring",
    "save_weights": "ckptd.tensorflow.keras_weights",
    "update_checkpoint_state": "ckptd.tensorflow.plain",
}

__getattr__, __dir__ = lazy.names(__name__, _HOMES)
