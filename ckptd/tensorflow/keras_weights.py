"""Save Keras weights in TensorFlow's format, which Keras 2 wrote and Keras 3 does not, and load them by their names."""

from __future__ import annotations

import inspect
import json
import logging
import os
from collections.abc import Mapping
from typing import Any

import keras

from ckptd.client.checkpointer import Checkpointer
from ckptd.client.paths.environment import given_address
from ckptd.client.paths.latest import Path, as_text
from ckptd.client.paths.run_place import check_no_file_in_the_way
from ckptd.client.saver.saver_directory import SaverDirectory, Target
from ckptd.engine.clock import SystemClock
from ckptd.engine.reading.bundle import Bundle, Wanted
from ckptd.errors import ConflictError, InvalidRequestError, NotFoundError
from ckptd.format import object_graph as graphs
from ckptd.format.saver_pb2 import TrackableObjectGraph
from ckptd.printable import counted
from ckptd.storage.local.os_errors import translated
from ckptd.storage.locations import is_url
from ckptd.tensorflow.keras_objects import Objects, objects_of, optimizer_objects_of, trackable_of, variables_of
from ckptd.tensorflow.keras_state import load_assets, load_own_variables, state_of
from ckptd.tensorflow.object_graph import arrays_of_object
from ckptd.tensorflow.places import BelowAnAddress, BesideThePath, CheckpointPlace, Content
from ckptd.tensorflow.refusals import UnknownArgumentError, as_tensorflows

_log = logging.getLogger("ckptd.tensorflow")
MODEL_NAME = "_CKPTD_KERAS_MODEL"
"""The tensor with the model's description, beside the weights."""

_OF_A_RUN = frozenset(inspect.signature(Checkpointer).parameters) - {"address", "run", "root"}
_WITHOUT_AN_ADDRESS: dict[str, tuple[Any, ...] | None] = {
    "timeout_s": None,
    "token": None,
    "ca": None,
    "cert": None,
    "key": None,
    "rank": (None, 0),
    "world_size": (None, 1),
}
"""Options that a program may keep when it removes the address, and their allowed values; None: any."""


def save_weights(
    model: Any,
    filepath: Path,
    overwrite: bool = True,
    max_shard_size: float | None = None,
    *,
    address: Path | None = None,
    **options: Any,
) -> None:
    """Save a model's weights, and its optimizer if it has one, as ``save_weights`` of Keras 2 did; durable on return.

    ``tf_keras`` loads them, ``load_weights`` does, and so does every reader of TensorFlow's format, by names such as
    ``layer_with_weights-0/kernel/.ATTRIBUTES/VARIABLE_VALUE``.

    Args:
        model: of Keras 3, on TensorFlow, with weights.
        filepath: the prefix of the checkpoint, just as it is given; a path or URL, or the run and the name below
            `address`.
        overwrite: replace a checkpoint of this prefix.
        max_shard_size: of Keras's own formats; only None is taken.
        address: a daemon's or a store's; default: the environment's CKPTD_ADDRESS, else none.
        options: of `Checkpointer`, for an address: `rank`, `world_size`, `token`, ….

    Raises:
        ConflictError: there is one already, and `overwrite` is False.
        InvalidRequestError: the model has no weights yet, the prefix is none, or an argument is not taken.
    """
    with as_tensorflows():
        if max_shard_size is not None:
            raise InvalidRequestError(
                "save_weights takes no max_shard_size: a reader loads parts of one file, however large it is",
                actual=max_shard_size,
            )
        place = place_of_files(address, options)
        try:
            path = as_text(filepath)
            if not overwrite and _exists(place, path):
                raise ConflictError("there is a checkpoint already", key=path)
            begin_to_save(place, path, arrays_of_model(model)).result()
        finally:
            place.close()


def load_weights(
    model: Any, filepath: Path, skip_mismatch: bool = False, *, address: Path | None = None, **options: Any
) -> None:
    """Load a model's weights by the names of Keras 2: what that wrote, what `save_weights` or `ModelCheckpoint` wrote.

    A model inside of a `tf.train.Checkpoint` is found too. All weights are assigned, or none if one is missing or has
    another shape, so `skip_mismatch` is refused. A compiled model gets its optimizer back if that is there and fits;
    the log says when it is not.

    Raises:
        NotFoundError: no such checkpoint, or a weight is not in it.
        InvalidRequestError: the shape of a weight differs; the weight and both shapes are named. Or an argument is
            not taken.
        CorruptionError: the bytes are wrong.
    """
    with as_tensorflows():
        if skip_mismatch:
            raise InvalidRequestError(
                "load_weights takes no skip_mismatch: it assigns all weights or none; read single ones with "
                "ckptd.load_variable",
                actual=skip_mismatch,
            )
        objects = objects_of(model)
        place = place_of_files(address, options)
        try:
            bundle = place.open(as_text(filepath))
            graph = _graph(bundle)
            try:
                node, keys = _find(graph, objects, bundle)
            except NotFoundError:  # an earlier ckptd called weights without a name otherwise
                objects = objects_of(model, auto_names=True)
                node, keys = _find(graph, objects, bundle)
            wanted = [(path, variable, keys[id(variable)]) for path, variable in variables_of(objects)]
            for path, variable, key in wanted:
                if tuple(bundle.shape(key)) != tuple(variable.shape):
                    raise InvalidRequestError(
                        f"weight {variable.path!r} ({path}) has another shape than {key!r}",
                        expected=list(variable.shape),
                        actual=list(bundle.shape(key)),
                    )
            wanted += _optimizer(model, graph, node, bundle)
            arrays = bundle.read_many([Wanted(key, None, None) for _, _, key in wanted])
            for (_, variable, _), array in zip(wanted, arrays, strict=True):
                variable.assign(array)
            load_own_variables(model, bundle)
        finally:
            place.close()
        _log.info("loaded %s of %s from %s", counted(len(arrays), "weight"), model.name, bundle.location)


def load_model(
    filepath: Path,
    custom_objects: Mapping[str, Any] | None = None,
    compile: bool = True,
    safe_mode: bool = True,
    *,
    address: Path | None = None,
    **options: Any,
) -> Any:
    """Build the model that `ModelCheckpoint` saved without `save_weights_only`, compiled as it was, and load it.

    Args:
        filepath: the prefix of the checkpoint.
        custom_objects: classes and functions that the model names.
        compile: False leaves the model without its optimizer and losses.
        safe_mode: refuse to run code that the checkpoint brings, such as that of a lambda.
        address: a daemon's or a store's; default: the environment's CKPTD_ADDRESS, else none.
        options: of `Checkpointer`, for an address: `rank`, `world_size`, `token`, ….

    Raises:
        NotFoundError: no such checkpoint, or it has weights only.
        ValueError: Keras's own, for code in `safe_mode`.
    """
    with as_tensorflows():
        place = place_of_files(address, options)
        try:
            bundle = place.open(as_text(filepath))
            if MODEL_NAME not in bundle.index:
                raise NotFoundError("there are weights only; build the model and use load_weights", key=bundle.location)
            description = json.loads(bundle.read(MODEL_NAME).item())
            if not compile:
                description.pop("compile_config", None)
            model = keras.saving.deserialize_keras_object(
                description, custom_objects=dict(custom_objects or {}), safe_mode=safe_mode
            )
            load_weights(model, filepath, address=address, **options)
            load_assets(model, bundle)
        finally:
            place.close()
        return model


def arrays_of_model(model: Any, *, with_model: bool = False) -> dict[str, Any]:
    """Return the weights as they are stored, with the optimizer and, on request, the model's description."""
    objects = dict(objects_of(model))
    optimizer = optimizer_objects_of(model)
    if optimizer is not None:
        objects["optimizer"] = optimizer
    arrays = arrays_of_object(trackable_of(objects))
    arrays.update(state_of(model))
    if with_model:
        arrays[MODEL_NAME] = model.to_json()
    return arrays


def place_of_files(address: Path | None, options: Mapping[str, Any]) -> CheckpointPlace:
    """Return the place for files of just the given names; none of them is ever deleted."""
    given = given_address(address)
    check_options(given, options)
    if given:
        return BelowAnAddress(given, {"max_to_keep": None, **options})
    timeout_s = options.get("timeout_s", 600.0)
    return BesideThePath(SaverDirectory(0, 10000.0, SystemClock(), save_relative_paths=True), timeout_s)


def check_options(address: str, options: Mapping[str, Any]) -> None:
    """Refuse arguments that would be ignored.

    Raises:
        InvalidRequestError: there is no such argument, or it has no effect without an address.
    """
    for name, value in options.items():
        if name not in _OF_A_RUN:
            raise UnknownArgumentError(f"there is no argument {name!r} here: leave it out", actual=value)
        if address:
            continue
        allowed = _WITHOUT_AN_ADDRESS.get(name, ())
        if allowed is not None and value not in allowed:
            raise InvalidRequestError(f"{name!r} means something below an address only: give one", actual=value)


def begin_to_save(place: CheckpointPlace, path: str, arrays: Mapping[str, Any]) -> Any:
    """Begin to save under exactly this prefix; return the pending save."""
    if isinstance(place, BesideThePath) and not is_url(path):
        directory = os.path.dirname(path) or os.curdir  # noqa: PTH120
        check_no_file_in_the_way(directory)
        with translated(directory):
            os.makedirs(directory, exist_ok=True)  # noqa: PTH103
    target = Target.of(path, None, None, "meta", pads_step=False, is_sharded=False)
    return place.save(target, Content(arrays), write_state=True)


def _exists(place: CheckpointPlace, path: str) -> bool:
    try:
        place.open(path)
    except (InvalidRequestError, NotFoundError):
        return False
    return True


def _graph(bundle: Bundle) -> TrackableObjectGraph:
    if graphs.OBJECT_GRAPH_NAME not in bundle.index:
        raise NotFoundError("no object graph: neither Keras nor tf.train.Checkpoint wrote this", key=bundle.location)
    return graphs.decode(bundle.read(graphs.OBJECT_GRAPH_NAME).item())


def _find(graph: TrackableObjectGraph, objects: Objects, bundle: Bundle) -> tuple[int, dict[int, str]]:
    """Return the node that is the model: the first, going out from the root, that has all weights; and their keys."""
    best: tuple[int, str] | None = None
    paths = list(variables_of(objects))
    for node in range(len(graph.nodes)):
        keys = _match(graph, node, objects)
        missing = [path for path, variable in paths if id(variable) not in keys]
        if not missing:
            return node, keys
        if best is None or len(missing) < best[0]:
            best = len(missing), ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
    assert best is not None or not graph.nodes
    told = best[1] if best is not None else "anything"
    raise NotFoundError(
        f"no object of the checkpoint has all weights of this model; missing are {told}", key=bundle.location
    )


def _match(graph: TrackableObjectGraph, node: int, objects: Objects) -> dict[int, str]:
    """Return the keys of the variables that are found below a node, by the variable's id."""
    keys: dict[int, str] = {}
    seen: set[int] = set()
    waiting = [(node, objects)]
    while waiting:
        at, one = waiting.pop(0)
        children = {child.local_name: child.node_id for child in graph.nodes[at].children}
        for name, value in one.items():
            if name not in children or id(value) in seen:
                continue
            seen.add(id(value))
            if isinstance(value, dict):
                waiting.append((children[name], value))
                continue
            for attribute in graph.nodes[children[name]].attributes:
                keys[id(value)] = attribute.checkpoint_key
    return keys


def _optimizer(model: Any, graph: TrackableObjectGraph, node: int, bundle: Bundle) -> list[tuple[str, Any, str]]:
    """Return the values to assign to the model's optimizer: all of them, or none."""
    optimizer = getattr(model, "optimizer", None)
    stored = [
        child.node_id
        for at in dict.fromkeys((node, 0))
        for child in graph.nodes[at].children
        if child.local_name == "optimizer"
    ]
    if optimizer is None or not stored:
        return []
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    objects = optimizer_objects_of(model)
    assert objects is not None  # it was built
    keys = _match(graph, stored[0], objects)
    found = [(path, variable, keys.get(id(variable), "")) for path, variable in variables_of(objects)]
    for path, variable, key in found:
        if not key or tuple(bundle.shape(key)) != tuple(variable.shape):
            _log.warning(
                "the optimizer of %s is another one than in %s (%s): it stays", model.name, bundle.location, path
            )
            return []
    return found
