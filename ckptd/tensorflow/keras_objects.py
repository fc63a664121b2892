"""A Keras model as the objects that Keras 2 saved: what its weights are called in TensorFlow's format.

Keras 3 no longer writes that format, and ``tf.train.Checkpoint(model=…)`` names its weights by private attributes of
its own. Under the names of Keras 2, ``layer_with_weights-0/kernel``, whatever reads Keras weights reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from ckptd.errors import InvalidRequestError

Objects = dict[str, Any]
"""An object: name → variable of Keras, or another object. One that has several names is one dict."""

_NOT_ATTRIBUTES = ("_layers", "_functional", "_operations", "_tracked", "_metrics", "_self_tracked_trackables")
"""Where Keras keeps its layers a second time."""


def objects_of(model: Any) -> Objects:
    """Return the model as Keras 2 would have saved it, without its optimizer.

    Raises:
        InvalidRequestError: when it is no model of Keras on TensorFlow, or has no weights yet.
    """
    if not isinstance(model, keras.Model):
        raise InvalidRequestError(f"a Keras model is wanted, not a {type(model).__name__}")
    if keras.backend.backend() != "tensorflow":
        raise InvalidRequestError(
            "Keras runs on another backend", expected="tensorflow", actual=keras.backend.backend()
        )
    if not model.built:
        raise InvalidRequestError(f"the model {model.name!r} has no weights yet: build it, or call it once")
    return _object(model, {})


def optimizer_objects_of(model: Any) -> Objects | None:
    """Return the optimizer of a compiled model as Keras 2 would have saved it; None if there is none yet."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or not getattr(optimizer, "built", False):
        return None
    iterations, rate = optimizer.iterations, getattr(optimizer, "_learning_rate", None)
    if not isinstance(rate, keras.Variable):
        rate = None  # a schedule
    # The list has the step first, and never the learning rate.
    rest = [one for one in optimizer.variables if one is not iterations and one is not rate]
    objects: Objects = {"_variables": {str(at): one for at, one in enumerate([iterations, *rest])}}
    objects["_iterations"] = iterations
    if rate is not None:
        objects["_learning_rate"] = rate
    return objects


def variables_of(objects: Objects) -> Iterator[tuple[str, Any]]:
    """Yield every variable once, with its path."""
    seen: set[int] = set()

    def walk(one: Objects, path: str) -> Iterator[tuple[str, Any]]:
        for name, value in one.items():
            if id(value) in seen:
                continue
            seen.add(id(value))
            if isinstance(value, dict):
                yield from walk(value, f"{path}{name}/")
            else:
                yield f"{path}{name}", value

    return walk(objects, "")


def trackable_of(objects: Objects) -> Any:
    """Return the same as objects of TensorFlow's, which it can describe in an object graph."""
    made: dict[int, Any] = {}

    def make(one: Objects) -> Any:
        if id(one) in made:
            return made[id(one)]
        trackable = made[id(one)] = tf.Module()
        for name, value in one.items():
            setattr(trackable, name, make(value) if isinstance(value, dict) else value.value)
        return trackable

    return make(objects)


def _object(layer: Any, made: dict[int, Objects]) -> Objects:
    """Return one layer: its layers by their attributes or numbers, then the weights that are its own."""
    if id(layer) in made:
        return made[id(layer)]
    found = made[id(layer)] = {}
    below = list(_layers(layer))
    for name, one in below:
        if isinstance(one, list):
            found[name] = {str(at): _object(each, made) for at, each in enumerate(one)}
        else:
            found[name] = _object(one, made)
    theirs = {
        id(weight)
        for _, one in below
        for each in ([one] if not isinstance(one, list) else one)
        for weight in each.weights
    }
    for weight in layer.weights:
        if id(weight) not in theirs:
            found[weight.name] = weight
    return found


def _layers(layer: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(layer, keras.Sequential) or type(layer).__name__ == "Functional":
        weighty = 0
        for number, one in enumerate(layer.layers):
            if one.weights:
                yield f"layer_with_weights-{weighty}", one
                weighty += 1
            yield f"layer-{number}", one
        return
    for name, value in vars(layer).items():
        if name in _NOT_ATTRIBUTES:
            continue
        if isinstance(value, keras.Layer):
            yield name, value
        elif isinstance(value, (list, tuple)) and value and all(isinstance(one, keras.Layer) for one in value):
            yield name, list(value)
