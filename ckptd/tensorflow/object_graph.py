"""What TensorFlow would write for a graph of objects, as named arrays: views of its memory where numpy can make them.

TensorFlow itself names the tensors and describes the graph, so that its own `tf.train.Checkpoint.restore` reads what
ckptd writes. A view of a variable is safe to read while training continues: TensorFlow uses new memory for the next
value of a variable as long as a view of the old one exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow.python.checkpoint import graph_view, save_util
from tensorflow.python.ops import resource_variable_ops
from tensorflow.python.training.saving import saveable_object

from ckptd.client.capture.arrays import Array, Variants
from ckptd.client.slice import Slice
from ckptd.errors import InvalidRequestError
from ckptd.format.coding import decode_varint64
from ckptd.format.object_graph import OBJECT_GRAPH_NAME

_BUFFER_KINDS = "biufc"


def check_eager() -> None:
    """Refuse a graph under construction, where tensors have no values; `InvalidRequestError`."""
    if not tf.executing_eagerly():
        raise InvalidRequestError(
            "tf.train.Checkpoint objects are saved eagerly, outside of tf.function; in a graph, use the Saver"
        )


def arrays_of_checkpoint(checkpoint: Any) -> dict[str, Any]:
    """Return what ``checkpoint.write(…)`` would store: key → array, string or list of `Slice`, and the object graph.

    Args:
        checkpoint: a `tf.train.Checkpoint`.

    Raises:
        InvalidRequestError: when there is no eager execution here, or an object can only write files of its own.
    """
    saver = getattr(checkpoint, "_saver", None)  # the one place that knows the root and what was attached to it
    view = getattr(saver, "_graph_view", None)
    if view is None:
        raise InvalidRequestError(f"pass a tf.train.Checkpoint, not a {type(checkpoint).__name__}")
    return _arrays_of_view(view)


def arrays_of_object(root: Any) -> dict[str, Any]:
    """Return the same for one trackable object that is the root itself, as Keras saves weights."""
    return _arrays_of_view(graph_view.ObjectGraphView(root))


def _arrays_of_view(view: Any) -> dict[str, Any]:
    check_eager()
    serialized, _, registered, graph = save_util.serialize_graph_view(view)
    if registered:
        names = ", ".join(sorted({name for objects in registered.values() for name in objects}))
        raise InvalidRequestError(
            f"objects with a registered saver write files of their own, and cannot be saved: {names}"
        )
    arrays: dict[str, Any] = {}
    for owner, tensors in serialized.items():
        for key, given in tensors.items():
            found = [_read(owner)] if _is_plain(owner) else list(_parts(given))
            found = [one for one in found if one is not None]
            if found:  # otherwise it is a variable without a value, of which the graph alone is kept
                arrays[key] = found if isinstance(found[0], Slice) else found[0]
    arrays[OBJECT_GRAPH_NAME] = graph.SerializeToString(deterministic=True)
    return arrays


def _is_plain(owner: Any) -> bool:
    """Return whether this is a variable of this host's memory and nothing more, as nearly all are."""
    return type(owner) is resource_variable_ops.ResourceVariable and owner.device.endswith("CPU:0")


def _read(variable: Any) -> Any:
    """Return a plain variable's value, None if it has none yet.

    TensorFlow's own way of reading it uses six operations and scopes; with a thousand variables, training would wait
    for that and not for the copy.
    """
    tf.raw_ops.DisableCopyOnRead(resource=variable.handle)  # TensorFlow copies on write again, not on each read
    try:
        return array_of(tf.raw_ops.ReadVariableOp(resource=variable.handle, dtype=variable.dtype))
    except tf.errors.FailedPreconditionError:
        return None


def _parts(given: Any) -> Iterator[Any]:
    """Yield the whole tensor, or the slices of it that are here."""
    for spec, tensor in given.items() if isinstance(given, dict) else [("", given)]:
        if isinstance(tensor, saveable_object.SaveSpec):
            spec, tensor = tensor.slice_spec or spec, tensor.tensor
        if tensor is None:
            continue
        array = array_of(tensor)
        yield _slice(array, spec.strip()) if spec.strip() else array


def array_of(tensor: Any) -> Any:
    """Return a tensor's value as `Checkpointer.save` takes it, without a copy where that is possible."""
    dtype = tensor.dtype
    if dtype == tf.variant:
        return _variants(tensor)
    if dtype == tf.string:
        return tensor.numpy()
    if not tensor.device.endswith("CPU:0"):
        with tf.device("/device:CPU:0"):
            tensor = tf.identity(tensor)
    if dtype == tf.bfloat16:
        tensor = tf.bitcast(tensor, tf.uint16)  # numpy has buffers of these
    element = np.dtype(dtype.as_numpy_dtype)
    if (element.kind not in _BUFFER_KINDS and dtype != tf.bfloat16) or not tensor.shape.num_elements():
        copied: Array = tensor.numpy()
        return copied.view(element) if copied.dtype != element else copied
    array: Array = np.asarray(memoryview(tensor))
    return array.view(element) if array.dtype != element else array


def _variants(tensor: Any) -> Variants:
    """Return the messages of a variant tensor, such as the state of a dataset's iterator."""
    message = tensor_pb2.TensorProto()
    message.ParseFromString(tf.io.serialize_tensor(tensor).numpy())
    # All lengths, then all messages.
    content, at, sizes = memoryview(message.tensor_content), 0, []
    for _ in range(tensor.shape.num_elements()):
        size, at = decode_varint64(content, at)
        sizes.append(size)
    messages = np.empty(len(sizes), object)
    for number, size in enumerate(sizes):
        messages[number] = bytes(content[at : at + size])
        at += size
    return Variants(messages.reshape(tuple(tensor.shape)))


def _slice(array: Array, spec: str) -> Slice:
    """Read a slice's place from TensorFlow's words for it: ``8 4 0,2:0,4``: the full shape, then start,length each."""
    *shape, boxes = spec.split(" ")
    start = [0 if box == "-" else int(box.split(",")[0]) for box in boxes.split(":")]
    return Slice(array, full_shape=tuple(map(int, shape)), start=tuple(start))
