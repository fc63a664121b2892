"""What a `Saver` saves and restores: names, and things that can be read and assigned.

The docstring of `Saver` lists what a variable may be, as users look for it there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ckptd.client.capture.arrays import Array, to_array
from ckptd.client.slice import Slice
from ckptd.errors import InvalidRequestError
from ckptd.format import dtypes
from ckptd.format.dtypes import DType
from ckptd.format.slices import Box


@dataclass(frozen=True, slots=True)
class VariableBox:
    """One box of a stored tensor that a variable needs.

    Attributes:
        shape: of the whole tensor as the variable has it, None if it takes any.
        dtype: as the variable has it, None if it takes any.
        box: which part, None for the whole.
        may_reshape: whether a stored tensor may have another shape of as many elements.
    """

    shape: tuple[int, ...] | None = None
    dtype: DType | None = None
    box: Box | None = None
    may_reshape: bool = False


class Variable:
    """One name and its variable.

    Attributes:
        name: of the tensor in the checkpoint.
        value: as the caller gave it.
    """

    def __init__(self, name: str, value: Any) -> None:
        self.name = name
        self.value = value
        self._get, self._set = _access(name, value)
        self._takes_list = False

    def read(self) -> Any:
        """Return what is to be saved, as `Checkpointer.save` takes it."""
        value = self._get()
        if value is None:
            raise InvalidRequestError(f"variable {self.name!r} has no value to save")
        return value

    def places(self) -> list[VariableBox]:
        """Return the boxes that the variable needs of the stored tensor: as many as `assign` takes arrays.

        Raises:
            InvalidRequestError: when the variable is an array that cannot be filled.
        """
        value = self._get()
        slices = _slices(value)
        self._takes_list = isinstance(value, (list, tuple)) and slices is not None
        if value is None:
            return [VariableBox()]
        if slices is None:
            return [self._place(value, None)]
        return [self._place(one.part, one) for one in slices]

    def assign(self, arrays: list[Array]) -> None:
        """Set the variable; one array for each of the `places` returned before."""
        self._set(arrays if self._takes_list else arrays[0])

    def _place(self, part: Any, of: Slice | None) -> VariableBox:
        array, dtype = to_array(self.name, part)
        if self.is_filled:
            _check_fillable(self.name, array)
        return (
            VariableBox(array.shape, dtype)
            if of is None
            else VariableBox(of.full_shape, dtype, Box(of.start, array.shape))
        )

    @property
    def is_filled(self) -> bool:
        """Whether the variable is memory of the caller's that restoring writes to."""
        slices = _slices(self.value)
        parts = [self.value] if slices is None else [one.part for one in slices]
        return all(isinstance(part, np.ndarray) for part in parts)


def variables_of(var_list: Any) -> list[Variable]:
    """Return the variables of a mapping, or of a nested sequence of objects that have names, in the order of names.

    Raises:
        InvalidRequestError: for what cannot be read and assigned, and what would be restored twice.
    """
    named = dict(var_list) if isinstance(var_list, Mapping) else _by_name(var_list)
    for name in named:
        if not isinstance(name, str):
            raise InvalidRequestError(f"the name of a variable is a str, not {name!r}")
    variables = [Variable(name, named[name]) for name in sorted(named)]
    seen: set[int] = set()
    for variable in variables:
        for part in _identities(variable.value):
            if part in seen:
                raise InvalidRequestError(f"The same saveable will be restored with two names: {variable.name}")
            seen.add(part)
    return variables


def _by_name(var_list: Iterable[Any]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for value in _flat(var_list):
        name = getattr(value, "name", None)
        if not isinstance(name, str):
            raise InvalidRequestError(
                f"a {type(value).__name__} in a list of variables has no name: give a dict of names to variables"
            )
        name = name.removesuffix(":0")
        if named.get(name, value) is not value:
            raise InvalidRequestError(f"At least two variables have the same name: {name}")
        named[name] = value
    return named


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    if not isinstance(values, (list, tuple, set, frozenset)):
        raise InvalidRequestError(
            f"var_list is a dict of names to variables or a list of variables, not a {type(values).__name__}"
        )
    for value in values:
        if isinstance(value, (list, tuple, set, frozenset)):
            yield from _flat(value)
        else:
            yield value


def _identities(value: Any) -> list[int]:
    slices = _slices(value)
    return [id(value)] if slices is None else [id(one.part) for one in slices]


def _slices(value: Any) -> list[Slice] | None:
    """Return the parts if `value` is a slice or a list of them, else None."""
    if isinstance(value, Slice):
        return [value]
    if isinstance(value, (list, tuple)) and value and all(isinstance(one, Slice) for one in value):
        return list(value)
    return None


def _access(name: str, value: Any) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    """Return how to read `value`, and how to assign to it: one array, or a list of them for a list of slices."""
    slices = _slices(value)
    targets = [value] if slices is None else [one.part for one in slices]
    if all(isinstance(target, np.ndarray) for target in targets):
        return lambda: value, lambda arrays: _fill(targets, arrays)
    if slices is None and isinstance(value, tuple) and len(value) == 2 and all(map(callable, value)):
        return value
    if slices is None and callable(getattr(value, "assign", None)):
        read = value.numpy if callable(getattr(value, "numpy", None)) else lambda: np.asarray(value)
        return read, value.assign
    what = "a part of a slice" if slices is not None else f"a {type(value).__name__}"
    raise InvalidRequestError(
        f"variable {name!r}: {what} cannot be assigned; give a numpy array, a Slice of one, a pair (get, set) of "
        f"callables, or an object with assign() and numpy()"
    )


def _fill(targets: list[Array], arrays: Array | list[Array]) -> None:
    for target, array in zip(targets, arrays if isinstance(arrays, list) else [arrays], strict=True):
        # A quantized array comes as a structured one with a single field; its numbers are what is stored.
        numbers = target[target.dtype.names[0]] if target.dtype.names else target
        np.copyto(numbers, array, casting="equiv")


def _check_fillable(name: str, array: Array) -> None:
    if not array.flags.writeable:
        raise InvalidRequestError(f"variable {name!r} is a read-only array")
    if dtypes.of_array_dtype(array.dtype).is_string and array.dtype != np.dtype(object):
        raise InvalidRequestError(
            f"variable {name!r} is an array of {array.dtype}, which cuts strings off: restoring takes one of objects"
        )
