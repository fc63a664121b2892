"""What a SaverDef names in a graph: which tensors its save operation takes, and which its restore operation reads.

A graph is self-contained: an imported one has no variables that Python knows, but its operations still tell names,
slices and tensors. So saving fetches the inputs of the save operations, which themselves never run; restoring runs the
graph's own assignments while the outputs of its restore operations are fed. TensorFlow opens no file for either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from ckptd.client.capture.arrays import Array
from ckptd.client.saver.variables import VariableBox
from ckptd.client.slice import Slice
from ckptd.errors import InvalidRequestError
from ckptd.format import dtypes
from ckptd.format.names import tensor_name
from ckptd.format.slices import parse_spec
from ckptd.tensorflow.places import Staging
from ckptd.tensorflow.values import named

_SAVE, _RESTORE = "SaveV2", "RestoreV2"
_OLD_FORMAT = frozenset(["Save", "SaveSlices", "Restore", "RestoreSlice"])
_PASSES_ON = frozenset(["Identity", "Reshape"])


_LARGE_BYTES = 256 << 10


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    """One tensor of a save or restore operation: its name in the checkpoint, which part it is, where it is here."""

    name: str
    spec: str
    tensor: Any


class GraphSaves:
    """The save operations below one operation of a graph.

    Attributes:
        num_shards: how many there are; TensorFlow writes as many data files.
    """

    def __init__(self, graph: Any, save_tensor_name: str) -> None:
        """Find them.

        Raises:
            InvalidRequestError: when there are none, or they write the old format.
        """
        operations = _operations_below(graph.get_tensor_by_name(save_tensor_name).op, _SAVE)
        if not operations:
            raise InvalidRequestError(f"{save_tensor_name} of the graph saves nothing")
        self.num_shards = len(operations)
        self._entries = [entry for operation in operations for entry in _entries(operation, list(operation.inputs)[3:])]

    def fetch(self, session: Any, staging: Staging | None = None) -> dict[str, Any]:
        """Evaluate everything; return name → value for `Checkpointer.save`.

        A session copies what it returns. Large tensors are evaluated one by one, so that always the same memory takes
        that copy, and copied on to where `staging` gives room for them: then a save has nothing to copy.

        What the session raises, for example about uninitialized variables, is not caught.

        Raises:
            InvalidRequestError: for a tensor whose value TensorFlow does not return.
        """
        for entry in self._entries:
            if entry.tensor.dtype.base_dtype == tf.variant:
                raise InvalidRequestError(f"tensor {entry.name!r} is a variant, which has no value outside of a graph")
        large = (
            [] if staging is None else [entry for entry in self._entries if _size_bytes(entry.tensor) >= _LARGE_BYTES]
        )
        small = [entry for entry in self._entries if entry not in large]
        fetched = session.run([entry.tensor for entry in small])
        values = {entry: named(value, entry.tensor.dtype) for entry, value in zip(small, fetched, strict=True)}
        for entry in large:
            values[entry] = _staged(session, entry, staging)
        arrays: dict[str, Any] = {}
        for entry in self._entries:
            if not entry.spec:
                arrays[entry.name] = values[entry]
                continue
            full_shape, part = parse_spec(entry.spec)
            slices = arrays.setdefault(entry.name, [])
            slices.append(Slice(values[entry], full_shape, part.resolve(full_shape).start))
        return arrays


class GraphRestores:
    """The restore operations below one operation of a graph, with the variables that they are for."""

    def __init__(self, graph: Any, restore_op_name: str) -> None:
        """Find them.

        Raises:
            InvalidRequestError: when they read the old format.
        """
        self._whole = graph.get_operation_by_name(restore_op_name)
        self._entries = [
            entry
            for operation in _operations_below(self._whole, _RESTORE)
            for entry in _entries(operation, operation.outputs)
        ]

    def run(
        self, session: Any, restore_all: Callable[[list[RestoredTensor]], None], *, sequentially: bool = False
    ) -> None:
        """Have `restore_all` check and read everything, and assign the values.

        `sequentially`, each assignment is run as soon as everything is there that it needs, and then forgotten.
        """
        feed = _Feed(session, self._whole, [entry.tensor for entry in self._entries], sequentially)
        restore_all([RestoredTensor(entry, feed.take) for entry in self._entries])
        feed.finish()


class RestoredTensor:
    """One output of a restore operation, as a target of `restore_all`.

    Attributes:
        name: of the stored tensor.
    """

    def __init__(self, entry: _Entry, take: Callable[[Any, Array], None]) -> None:
        self.name = entry.name
        self._entry = entry
        self._take = take

    def places(self) -> list[VariableBox]:
        """Return the one box that the graph reads, with the shape of the variable that it is for."""
        tensor = self._entry.tensor
        dtype = dtypes.by_number(tensor.dtype.base_dtype.as_datatype_enum)
        if self._entry.spec:
            full_shape, part = parse_spec(self._entry.spec)
            return [VariableBox(full_shape, dtype, part.resolve(full_shape))]
        shape, may_reshape = _shape_assigned(tensor)
        return [VariableBox(shape, dtype, may_reshape=may_reshape)]

    def assign(self, arrays: list[Array]) -> None:
        """Feed the tensor."""
        self._take(self._entry.tensor, arrays[0])


class _Feed:
    """Tensors that were read and not assigned yet."""

    def __init__(self, session: Any, whole: Any, tensors: list[Any], sequentially: bool) -> None:
        self._session = session
        self._whole = whole
        self._values: dict[Any, Array] = {}
        # By reference, because tensors of a graph have no equality.
        self._missing: list[tuple[Any, list[Any]]] = []
        if sequentially:
            wanted = {tensor.ref() for tensor in tensors}
            self._missing = [(step, _tensors_below(step, wanted)) for step in _steps_of(whole)]

    def take(self, tensor: Any, value: Array) -> None:
        self._values[tensor.ref()] = value
        ready = [step for step in self._missing if all(each in self._values for each in step[1])]
        if ready:
            self._missing = [step for step in self._missing if step not in ready]
        for operation, needed in ready:
            self._run(operation, needed)

    def finish(self) -> None:
        if self._values:
            self._run(self._whole, list(self._values))

    def _run(self, operation: Any, needed: list[Any]) -> None:
        values = {each: self._values.pop(each) for each in needed}
        self._session.run(operation, {each.deref(): value for each, value in values.items()})


def _staged(session: Any, entry: _Entry, staging: Staging | None) -> Array:
    """Evaluate one tensor into memory of the next save."""
    value = named(session.run(entry.tensor), entry.tensor.dtype)
    if staging is None or value.dtype.names or value.dtype == object:
        return value
    room = staging(f"{entry.name} {entry.spec}", value.shape, value.dtype)
    np.copyto(room, value)
    return room


def _size_bytes(tensor: Any) -> int:
    """Return how much memory a tensor takes, 0 if the graph does not say."""
    return tensor.shape.num_elements() * tensor.dtype.size if tensor.shape.is_fully_defined() else 0


def _entries(operation: Any, tensors: Any) -> Iterator[_Entry]:
    """Yield the tensors of a save or restore operation; its second and third inputs are names and slices."""
    names, specs = (tf.get_static_value(operation.inputs[number]) for number in (1, 2))
    if names is None or specs is None:
        raise InvalidRequestError(f"operation {operation.name} computes its names; only constant ones are supported")
    for name, spec, tensor in zip(names.tolist(), specs.tolist(), tensors, strict=True):
        yield _Entry(tensor_name(name), spec.decode(), tensor)


def _operations_below(operation: Any, kind: str) -> list[Any]:
    """Return the operations of a kind that one waits for, in the order of their names. Not searched beyond them."""
    found, seen, rest = [], {operation.name}, [operation]
    while rest:
        at = rest.pop()
        if at.type in _OLD_FORMAT:
            raise InvalidRequestError(
                f"operation {at.name} is of the old format V1; build the graph with a Saver of write_version V2"
            )
        if at.type == kind:
            found.append(at)
            continue
        for other in _before(at):
            if other.name not in seen:
                seen.add(other.name)
                rest.append(other)
    return sorted(found, key=lambda each: each.name)


def _steps_of(whole: Any) -> list[Any]:
    """Return the assignments that an operation groups."""
    if whole.type != "NoOp":
        return [whole]
    return [step for each in whole.control_inputs for step in _steps_of(each)]


def _tensors_below(operation: Any, wanted: set[Any]) -> list[Any]:
    """Return those of the wanted tensors that an operation waits for."""
    found, seen, rest = [], {operation.name}, [operation]
    while rest:
        at = rest.pop()
        found += [tensor.ref() for tensor in at.inputs if tensor.ref() in wanted]
        for other in _before(at):
            if other.name not in seen and other.type != _RESTORE:
                seen.add(other.name)
                rest.append(other)
    return found


def _before(operation: Any) -> list[Any]:
    return [tensor.op for tensor in operation.inputs] + list(operation.control_inputs)


def _shape_assigned(tensor: Any) -> tuple[tuple[int, ...] | None, bool]:
    """Return the shape of the variable that a restored tensor is assigned to, None if it takes any.

    And whether the graph reshapes the tensor on its way there.
    """
    may_reshape = False
    rest = list(tensor.consumers())
    while rest:
        at = rest.pop()
        if at.type == "Assign":
            return _known(at.inputs[0].shape), may_reshape
        if at.type == "AssignVariableOp" and at.inputs[0].op.type == "VarHandleOp":
            return _known(tf.TensorShape(at.inputs[0].op.get_attr("shape"))), may_reshape
        if at.type in _PASSES_ON:
            may_reshape = may_reshape or at.type == "Reshape"
            rest += at.outputs[0].consumers()
    return None, False


def _known(shape: Any) -> tuple[int, ...] | None:
    return tuple(shape.as_list()) if shape.is_fully_defined() else None
