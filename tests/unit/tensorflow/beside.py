"""TensorFlow's classes and functions beside ours, for tests that run one program with both."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import tensorflow as tf

import ckptd.tensorflow

v1 = tf.compat.v1
STOCK = SimpleNamespace(
    Saver=v1.train.Saver,
    Manager=tf.train.CheckpointManager,
    Hook=v1.train.CheckpointSaverHook,
    import_meta_graph=v1.train.import_meta_graph,
    functions=tf.train,
)
OURS = SimpleNamespace(
    Saver=ckptd.tensorflow.Saver,
    Manager=ckptd.tensorflow.CheckpointManager,
    Hook=ckptd.tensorflow.CheckpointSaverHook,
    import_meta_graph=ckptd.tensorflow.import_meta_graph,
    functions=ckptd.tensorflow,
)
SIDES = {"stock": STOCK, "ours": OURS}


def _both(argument: str, attribute: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(argument, [getattr(side, attribute) for side in SIDES.values()], ids=SIDES.keys())


savers = _both("saver_of", "Saver")
managers = _both("manager_of", "Manager")
hooks = _both("hook_of", "Hook")
imports = _both("import_of", "import_meta_graph")
modules = _both("module", "functions")


def indices(directory: Path) -> list[str]:
    """Return the names of the indices in a directory."""
    return sorted(path.name for path in directory.glob("*.index"))


def files(directory: str | Path) -> list[str]:
    """Return what is in a directory beside what ckptd keeps for itself."""
    return sorted(name for name in os.listdir(directory) if name != ".ckptd")


def small_model() -> keras.Model:
    """Return a compiled model of two weights."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    return model
