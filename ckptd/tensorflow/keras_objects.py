"""A Keras model as the objects that Keras 2 saved: the names of its weights in TensorFlow's format.

Keras 3 no longer writes that format, and ``tf.train.Checkpoint(model=…)`` names its weights by private attributes of
its own. Under the names of Keras 2, ``layer_with_weights-0/kernel``, every reader of Keras weights can read them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from ckptd.errors import InvalidRequestError

Objects = dict[str, Any]
"""An object: maps names to variables of Keras, or to other objects. One that has several names is one dict."""

Path = tuple[str, ...]

_NOT_ATTRIBUTES = frozenset(
    (
        "_layers",
        "_functional",
        "_operations",
        "_tracked",
        "_metrics",
        "_trainable_variables",
        "_non_trainable_variables",
        "_inbound_nodes",
        "_outbound_nodes",
    )
)
"""Where Keras keeps layers and weights a second time; TensorFlow does so under names that begin with ``_self_``."""

_AUTO_NAME = re.compile(r"variable(_\d+)?")
"""What Keras calls a weight without a name: it counts all variables of the process."""


def objects_of(model: Any, *, auto_names: bool = False) -> Objects:
    """Return the model as Keras 2 would have saved it, without its optimizer.

    Args:
        model: of Keras 3, on TensorFlow, with weights.
        auto_names: name weights that have no name of their own as Keras numbers them, ``variable_7``, in this process.
            An earlier ckptd saved them so.

    Raises:
        InvalidRequestError: when it is no model of Keras on TensorFlow, or has no weights yet.
    """
    if not isinstance(model, keras.Model):
        raise InvalidRequestError(f"pass a Keras model, not a {type(model).__name__}")
    if keras.backend.backend() != "tensorflow":
        raise InvalidRequestError(
            "Keras runs on another backend", expected="tensorflow", actual=keras.backend.backend()
        )
    if not model.built:
        raise InvalidRequestError(f"the model {model.name!r} has no weights yet: build it, or call it once")
    objects = _object(model, {}, auto_names)
    named = {id(variable) for _, variable in variables_of(objects)}
    for weight in model.weights:
        if id(weight) not in named:
            raise InvalidRequestError(
                f"weight {weight.path!r} of the model {model.name!r} cannot be named: keep it, or its layer, in an "
                "attribute of its layer"
            )
    return objects


def layers_of(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the model and every layer in it once, each with its path; the model's own is a dot."""
    seen: set[int] = set()

    def walk(layer: Any, path: str) -> Iterator[tuple[str, Any]]:
        if id(layer) in seen:
            return
        seen.add(id(layer))
        yield path or ".", layer
        for below, one in _layers(layer):
            yield from walk(one, "/".join(filter(None, (path, *below))))

    return walk(model, "")


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


def _object(layer: Any, made: dict[int, Objects], auto_names: bool) -> Objects:
    """Return one layer: its layers by their attributes or numbers, then the weights that are its own."""
    if id(layer) in made:
        return made[id(layer)]
    found = made[id(layer)] = {}
    theirs: set[int] = set()
    for path, one in _layers(layer):
        _put(found, path, _object(one, made, auto_names))
        theirs.update(id(weight) for weight in one.weights)
    own = [weight for weight in layer.weights if id(weight) not in theirs]
    names = Counter(weight.name for weight in own)
    attributes: dict[int, Path] = {}
    for path, one in _attributes(layer):
        attributes.setdefault(id(one), path)
    for number, weight in enumerate(own):
        # Keras 2 knew a weight by the name it was given. Two may have the same one, or none: then by their attributes.
        is_named = names[weight.name] == 1 and (auto_names or not _AUTO_NAME.fullmatch(weight.name))
        ways: list[Path] = [(weight.name,)] if is_named else []
        ways += [attributes[id(weight)]] if id(weight) in attributes else []
        for path in (*ways, ("_weights", str(number))):
            if _put(found, path, weight):
                break
    return found


def _put(objects: Objects, path: Path, value: Any) -> bool:
    """Set the value at a path, if the path is free; return whether it was."""
    for name in path[:-1]:
        objects = objects.setdefault(name, {})
        if not isinstance(objects, dict):
            return False
    return objects.setdefault(path[-1], value) is value


def _layers(layer: Any) -> Iterator[tuple[Path, Any]]:
    """Yield the layers right below one, each with its path; under two paths if Keras 2 knew it under two."""
    yielded: set[int] = set()
    if isinstance(layer, keras.Sequential) or any(kind.__name__ == "Functional" for kind in type(layer).__mro__):
        weighty = 0
        for number, one in enumerate(layer.layers):
            yielded.add(id(one))
            if one.weights:
                yield (f"layer_with_weights-{weighty}",), one
                weighty += 1
            yield (f"layer-{number}",), one
        # A user's class may have others beside those of its graph. The graph itself is kept in attributes, too.
        others = [(path, one) for path, one in _attributes(layer) if id(one) not in yielded]
    else:
        others = list(_attributes(layer))
    for path, one in others:
        if isinstance(one, keras.Layer):
            yielded.add(id(one))
            yield path, one
    known = {id(weight) for one in layer._layers if id(one) in yielded for weight in one.weights}
    for number, one in enumerate(layer._layers):  # those in sets, for example
        if id(one) not in yielded and any(id(weight) not in known for weight in one.weights):
            yield ("_layers", str(number)), one


def _attributes(layer: Any) -> Iterator[tuple[Path, Any]]:
    """Yield the layers and variables that a layer's attributes hold, in lists and dicts, too, with their paths."""
    for name, value in vars(layer).items():
        if name not in _NOT_ATTRIBUTES and not name.startswith("_self_"):
            yield from _within((name,), value)


def _within(path: Path, value: Any) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, (keras.Layer, keras.Variable)):
        yield path, value
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _within((*path, str(key)), one)
    elif isinstance(value, (list, tuple)):
        if value and isinstance(value[0], (str, int, float)):  # a vocabulary, for example, which may be long
            return
        for at, one in enumerate(value):
            yield from _within((*path, str(at)), one)
