"""State that Keras layers keep beside their weights: vocabularies, files, and whatever a user's layer saves itself.

Keras 3 gets these by `save_own_variables` and `save_assets`. Here each is a tensor of the checkpoint, named
by the path of the layer, and is restored with `load_own_variables` and `load_assets`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ckptd.engine.reading.bundle import Bundle
from ckptd.errors import CorruptionError
from ckptd.tensorflow.keras_objects import layers_of

OWN_NAME = "_CKPTD_KERAS_OWN/{}/.VALUES/"
ASSETS_NAME = "_CKPTD_KERAS_ASSETS/{}/.FILES/"
"""Return the prefix of the tensors of a layer with this path. Layers below it do not have it."""


def state_of(model: Any) -> dict[str, Any]:
    """Return the state that the layers keep beside their weights, in its stored form."""
    arrays: dict[str, Any] = {}
    for path, layer in layers_of(model):
        if _saves_itself(layer):
            own: dict[str, Any] = {}
            layer.save_own_variables(own)
            arrays.update((OWN_NAME.format(path) + name, np.array(value)) for name, value in own.items())
        if hasattr(layer, "save_assets"):
            with tempfile.TemporaryDirectory(prefix="ckptd-keras-") as directory:
                layer.save_assets(directory)
                arrays.update((ASSETS_NAME.format(path) + name, data) for name, data in _files_below(Path(directory)))
    return arrays


def load_own_variables(model: Any, bundle: Bundle) -> None:
    """Load the state that layers keep beside their weights, once the weights are assigned."""
    for path, layer in layers_of(model):
        if _saves_itself(layer):
            own = {name: bundle.read(key) for name, key in _stored(bundle, OWN_NAME.format(path))}
            if own:  # Keras 2 and earlier versions of ckptd wrote none
                layer.load_own_variables(own)
        elif _overrides(layer, "load_own_variables") and not _overrides(layer, "save_own_variables"):
            # It loads what every layer saves, and computes values from it, as `Normalization` does.
            weights = [*layer._trainable_variables, *layer._non_trainable_variables]
            layer.load_own_variables({str(number): weight.numpy() for number, weight in enumerate(weights)})


def load_assets(model: Any, bundle: Bundle) -> None:
    """Have the layers load their files."""
    for path, layer in layers_of(model):
        if not hasattr(layer, "load_assets"):
            continue
        assets = list(_stored(bundle, ASSETS_NAME.format(path)))
        if not assets:
            continue
        with tempfile.TemporaryDirectory(prefix="ckptd-keras-") as directory:
            for name, key in assets:
                if not Path(directory, name).resolve().is_relative_to(Path(directory).resolve()):
                    raise CorruptionError("this file of a layer belongs elsewhere", key=key)
                file = Path(directory, name)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(bundle.read(key).item())
            layer.load_assets(directory)


def _overrides(layer: Any, method: str) -> bool:
    return getattr(type(layer), method) is not getattr(keras.Layer, method)


def _saves_itself(layer: Any) -> bool:
    """Return whether a layer saves more than its weights. Keras's own layers do so only because of their files."""
    if not _overrides(layer, "save_own_variables") or not _overrides(layer, "load_own_variables"):
        return False
    saving = next(kind for kind in type(layer).__mro__ if "save_own_variables" in vars(kind))
    return hasattr(layer, "save_assets") or not saving.__module__.startswith("keras.")


def _stored(bundle: Bundle, beginning: str) -> Iterator[tuple[str, str]]:
    """Yield the tensors whose names begin so: the rest of the name, and the name."""
    for name in bundle.names():
        if name.startswith(beginning):
            yield name.removeprefix(beginning), name


def _files_below(directory: Path) -> Iterator[tuple[str, bytes]]:
    for file in sorted(directory.rglob("*")):
        if file.is_file():
            yield file.relative_to(directory).as_posix(), file.read_bytes()
