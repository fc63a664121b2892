"""Variables of TensorFlow 2, passed to a Saver without a graph, as names and arrays."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow.python.training.saving import saveable_object_util

from ckptd.client.capture.arrays import Array
from ckptd.client.saver.variables import VariableBox
from ckptd.client.slice import Slice
from ckptd.errors import InvalidRequestError
from ckptd.format import dtypes
from ckptd.format.slices import parse_spec
from ckptd.tensorflow.values import view_of


class EagerVariables:
    """The named variables of a list or dict, by TensorFlow's own rules for names."""

    def __init__(self, var_list: Any, *, reshape: bool = False) -> None:
        """Name the variables; `ValueError` and `TypeError` are TensorFlow's."""
        named = var_list if isinstance(var_list, dict) else saveable_object_util.op_list_to_dict(var_list)
        self._reshape = reshape
        self._saveables = saveable_object_util.validate_and_slice_inputs(named)

    def arrays(self) -> dict[str, Any]:
        """Return name → value for `Checkpointer.save`: views of the variables' memory where possible."""
        arrays: dict[str, Any] = {}
        for saveable in self._saveables:
            for spec in saveable.specs:
                tensor = spec.tensor
                if tensor is None:
                    raise InvalidRequestError(f"variable {spec.name!r} is not initialized")
                if not spec.slice_spec:
                    arrays[spec.name] = view_of(tensor)
                    continue
                full_shape, part = parse_spec(spec.slice_spec)
                slices = arrays.setdefault(spec.name, [])
                slices.append(Slice(view_of(tensor), full_shape, part.resolve(full_shape).start))
        return arrays

    def targets(self) -> list[EagerTarget]:
        """Return the targets for `restore_all`."""
        return [
            EagerTarget(group, number, self._reshape)
            for group in map(_Group, self._saveables)
            for number in range(len(group.saveable.specs))
        ]


class _Group:
    """The tensors of one saveable object, which is assigned once all of them are there."""

    def __init__(self, saveable: Any) -> None:
        self.saveable = saveable
        self._arrays: dict[int, Array] = {}

    def take(self, number: int, array: Array) -> None:
        self._arrays[number] = array
        specs = self.saveable.specs
        if len(self._arrays) == len(specs):
            # Reshaped already, where that is requested.
            tensors = [tf.constant(self._arrays[each], dtype=spec.dtype) for each, spec in enumerate(specs)]
            self.saveable.restore(tensors, None)


class EagerTarget:
    """One tensor of a saveable object, as a target of `restore_all`.

    Attributes:
        name: of the stored tensor.
    """

    def __init__(self, group: _Group, number: int, reshape: bool) -> None:
        self._spec = group.saveable.specs[number]
        self.name = self._spec.name
        self._group = group
        self._number = number
        self._reshape = reshape

    def places(self) -> list[VariableBox]:
        """Return the one box that this is."""
        spec = self._spec
        dtype = dtypes.by_number(tf.as_dtype(spec.dtype).base_dtype.as_datatype_enum)
        if spec.slice_spec:
            full_shape, part = parse_spec(spec.slice_spec)
            return [VariableBox(full_shape, dtype, part.resolve(full_shape))]
        shape = getattr(self._group.saveable.op, "shape", None)
        known = tuple(shape.as_list()) if isinstance(shape, tf.TensorShape) and shape.is_fully_defined() else None
        return [VariableBox(known, dtype, may_reshape=self._reshape)]

    def assign(self, arrays: list[Array]) -> None:
        """Assign, once every tensor of the object has come."""
        self._group.take(self._number, arrays[0])
