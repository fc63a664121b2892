"""Convert whatever holds numbers or strings to a numpy array, without a copy where possible.

Frameworks are recognised by the methods of their objects, and none is imported here: a torch tensor can only be
passed in by a program that has imported torch itself.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ckptd.errors import InvalidRequestError
from ckptd.format import dtypes
from ckptd.format.dtypes import DType

Array = NDArray[Any]

# Element types of torch that numpy has no name for: seen as integers of their width, and named again on our side.
_TORCH_VIEWS: dict[str, tuple[str, Any]] = {
    "torch.bfloat16": ("int16", ml_dtypes.bfloat16),
    "torch.float8_e5m2": ("uint8", ml_dtypes.float8_e5m2),
    "torch.float8_e4m3fn": ("uint8", ml_dtypes.float8_e4m3fn),
    "torch.float8_e4m3fnuz": ("uint8", ml_dtypes.float8_e4m3fnuz),
    "torch.float8_e5m2fnuz": ("uint8", ml_dtypes.float8_e5m2fnuz),
}


@dataclass(frozen=True, slots=True, eq=False)
class Variants:
    """Elements that only TensorFlow can make sense of, such as the state of a dataset's iterator.

    Attributes:
        messages: an object array of `bytes`, each a serialized ``VariantTensorDataProto``.
    """

    messages: Array


def to_array(name: str, value: Any) -> tuple[Array, DType]:
    """Return `value` as an array and the dtype it is stored with.

    Arrays are views of the caller's memory wherever that is possible. Taken are numpy arrays and scalars, Python's
    numbers, strings and (nested) sequences of them, torch tensors, and everything with ``__array__`` or
    ``__dlpack__``, such as jax arrays.

    Raises:
        InvalidRequestError: naming the tensor, when it can't be stored.
    """
    if isinstance(value, Variants):
        return value.messages, dtypes.by_number(dtypes.VARIANT_NUMBER)
    try:
        array = _convert(value)
    except InvalidRequestError as error:
        raise InvalidRequestError(f"tensor {name!r}: {error.reason}") from error
    except (TypeError, ValueError, RuntimeError, BufferError, OverflowError) as error:
        raise InvalidRequestError(f"tensor {name!r}: {type(value).__name__} can't be saved: {error}") from error
    try:
        dtype = dtypes.of_array_dtype(array.dtype)
    except InvalidRequestError as error:
        raise InvalidRequestError(f"tensor {name!r}: {error.reason}") from error
    return array, dtype


def _convert(value: Any) -> Array:
    if isinstance(value, np.ndarray):
        if isinstance(value, np.ma.MaskedArray):
            raise InvalidRequestError("a masked array has no one value; fill it first")
        return np.asarray(value)
    if isinstance(value, (bytes, bytearray, str)):
        scalar: Array = np.empty((), object)
        scalar[()] = bytes(value) if isinstance(value, bytearray) else value
        return scalar
    if isinstance(value, (bool, int, float, complex, np.generic)):
        return np.asarray(value)
    if type(value).__module__.partition(".")[0] == "torch":
        return _of_torch(value)
    if hasattr(value, "__array__"):
        return np.asarray(value)
    if hasattr(value, "__dlpack__"):
        return np.from_dlpack(value)
    if isinstance(value, (list, tuple)):
        return _of_sequence(value)
    raise InvalidRequestError(f"{type(value).__name__} can't be saved: it is neither an array, a number nor a string")


def _of_torch(tensor: Any) -> Array:
    """View a torch tensor; one on another device is copied to the host."""
    tensor = tensor.detach().cpu()
    for resolve in ("resolve_conj", "resolve_neg"):  # torch keeps these two as flags on the same memory
        tensor = getattr(tensor, resolve, lambda tensor=tensor: tensor)()
    view = _TORCH_VIEWS.get(str(tensor.dtype))
    if view is None:
        array: Array = tensor.numpy()
        return array
    as_integer, dtype = view
    # The module that the tensor comes from: it is loaded, or there would be no tensor.
    integers: Array = tensor.contiguous().view(getattr(sys.modules["torch"], as_integer)).numpy()
    return integers.view(dtype)


def _of_sequence(value: list[Any] | tuple[Any, ...]) -> Array:
    """Turn nested sequences into an array. numpy would cut trailing zero bytes off `bytes`, so strings stay objects."""
    array = np.asarray(value)
    if array.dtype.kind in "SU":
        return np.array(value, dtype=object)
    if array.dtype.kind == "O":
        raise InvalidRequestError("a sequence holds numbers or strings, not both, and fits 64 bits")
    return array
