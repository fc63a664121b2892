"""torch tensor ⇄ numpy array, over the same memory if that is the host's.

numpy has no bfloat16 and no float8: `ml_dtypes` adds them, and tensors of these dtypes are converted as integers of the
same width. Strides are kept in both directions, so a tensor need not be contiguous.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.parameter import is_lazy

from ckptd.errors import InvalidRequestError

Array = NDArray[Any]

_BORROWED: dict[torch.dtype, tuple[torch.dtype, Any, Any]] = {
    torch.bfloat16: (torch.int16, np.int16, ml_dtypes.bfloat16),
    torch.float8_e5m2: (torch.uint8, np.uint8, ml_dtypes.float8_e5m2),
    torch.float8_e4m3fn: (torch.uint8, np.uint8, ml_dtypes.float8_e4m3fn),
    torch.float8_e5m2fnuz: (torch.uint8, np.uint8, ml_dtypes.float8_e5m2fnuz),
    torch.float8_e4m3fnuz: (torch.uint8, np.uint8, ml_dtypes.float8_e4m3fnuz),
}
"""torch's dtype → the integers of its width, in torch and in numpy, and its name among numpy's dtypes."""

_NATIVE: dict[torch.dtype, Any] = {
    torch.bool: np.bool_,
    torch.uint8: np.uint8,
    torch.uint16: np.uint16,
    torch.uint32: np.uint32,
    torch.uint64: np.uint64,
    torch.int8: np.int8,
    torch.int16: np.int16,
    torch.int32: np.int32,
    torch.int64: np.int64,
    torch.float16: np.float16,
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.complex64: np.complex64,
    torch.complex128: np.complex128,
}

NUMPY_DTYPES: dict[torch.dtype, np.dtype[Any]] = {
    torch_dtype: np.dtype(one) for torch_dtype, one in _NATIVE.items()
} | {torch_dtype: np.dtype(one) for torch_dtype, (_, _, one) in _BORROWED.items()}
_TORCH_DTYPES = {array_dtype: torch_dtype for torch_dtype, array_dtype in NUMPY_DTYPES.items()}

BITS: dict[torch.dtype, torch.dtype] = {
    getattr(torch, name): integers
    for name, integers in (
        ("float8_e8m0fnu", torch.uint8),
        ("float4_e2m1fn_x2", torch.uint8),
        ("complex32", torch.int32),
    )
    if hasattr(torch, name)
}
"""dtypes that the format lacks, because TensorFlow has none of them, and integers with the same bits."""


_SPARSE = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)
_QUANTIZED = (torch.qint8, torch.quint8, torch.qint32, torch.quint4x2, torch.quint2x4)


def numpy_dtype_of(name: str, dtype: torch.dtype) -> np.dtype[Any]:
    """Return the numpy dtype of a torch dtype.

    Raises:
        InvalidRequestError: naming the tensor, for quantized elements and others that numpy lacks.
    """
    try:
        return NUMPY_DTYPES[dtype]
    except KeyError:
        bits = BITS.get(dtype)
        if bits:
            way = f"; store x.view({bits}), and call .view({dtype}) on what is loaded"
        elif dtype in _QUANTIZED:
            way = "; store x.int_repr(), and its scale and zero point"
        else:
            way = "; store x.view(torch.uint8), and the dtype beside it"
        raise InvalidRequestError(f"tensor {name!r}: elements of {dtype} can't be stored{way}") from None


def torch_dtype_of(dtype: np.dtype[Any]) -> torch.dtype | None:
    """Return the torch dtype of a numpy dtype; None for strings, int4 and others that torch lacks."""
    return _TORCH_DTYPES.get(dtype)


def array_of(name: str, tensor: torch.Tensor) -> Array:
    """Return a tensor's elements for `Checkpointer.save`: a view of the host's memory, a copy from elsewhere.

    A view changes with the tensor and keeps its memory alive. Gradients are ignored.

    Raises:
        InvalidRequestError: naming the tensor, when it has no elements to store: meta and fake ones, sparse ones,
            quantized ones, and a `DTensor`, whose parts `sharding.parts_of` returns.
    """
    return _view(name, _in_host_memory(name, tensor))


def memory_of(name: str, tensor: torch.Tensor) -> Array | None:
    """Return a writable view of a tensor's own memory, for `into` of a restore; None if there is no such view.

    There is none on another device, or if torch keeps a sign or a conjugation as a flag beside the memory: then use
    `fill` to copy the restored array there.

    Raises:
        InvalidRequestError: as `array_of`.
    """
    _check(name, tensor)
    tensor = tensor.detach()
    if tensor.device.type != "cpu" or tensor.is_conj() or tensor.is_neg():
        return None
    view = _view(name, tensor)
    return view if view.flags.writeable else None


def fill(name: str, tensor: torch.Tensor, array: Array) -> None:
    """Copy an array into a tensor on any device; `InvalidRequestError` with both if shapes or dtypes differ."""
    if tuple(tensor.shape) != array.shape or numpy_dtype_of(name, tensor.dtype) != array.dtype:
        raise InvalidRequestError(
            f"tensor {name!r} has another dtype or shape than what is stored",
            expected=f"{array.dtype} {list(array.shape)}",
            actual=f"{tensor.dtype} {list(tensor.shape)}",
        )
    with torch.no_grad():
        tensor.detach().copy_(tensor_of(array))


def tensor_of(array: Array) -> torch.Tensor:
    """Return a tensor over an array's memory; a copy only if torch can't use that: read-only, or reversed.

    Raises:
        InvalidRequestError: for strings, int4 and other elements that torch lacks.
    """
    array = np.asarray(array)
    dtype = torch_dtype_of(array.dtype.newbyteorder("="))
    if dtype is None:
        raise InvalidRequestError("torch has no dtype for such elements", actual=array.dtype.name)
    if not array.flags.writeable or not array.dtype.isnative or min(array.strides, default=0) < 0:
        array = np.array(array, array.dtype.newbyteorder("="))
    if dtype not in _BORROWED:
        return torch.from_numpy(array)
    return torch.from_numpy(array.view(_BORROWED[dtype][1])).view(dtype)


def _view(name: str, tensor: torch.Tensor) -> Array:
    try:
        if tensor.dtype not in _BORROWED:
            array: Array = tensor.numpy()
            return array
        in_torch, _, dtype = _BORROWED[tensor.dtype]
        integers: Array = tensor.view(in_torch).numpy()
        return integers.view(dtype)
    except (RuntimeError, TypeError) as error:  # a subclass of Tensor without memory of its own
        raise InvalidRequestError(f"tensor {name!r}: {type(tensor).__name__} can't be stored: {error}") from error


def _in_host_memory(name: str, tensor: torch.Tensor) -> torch.Tensor:
    _check(name, tensor)
    return tensor.detach().cpu().resolve_conj().resolve_neg()


def check_form(name: str, tensor: torch.Tensor) -> None:
    """Raise `InvalidRequestError`, naming the tensor, if its elements are not one box in memory."""
    if is_lazy(tensor):
        raise InvalidRequestError(f"tensor {name!r} has no shape yet: run one batch through its module first")
    if tensor.is_nested:
        raise InvalidRequestError(f"tensor {name!r} is nested; store its parts, x.unbind()")
    if tensor.layout in (torch.strided, torch.jagged):
        return
    way = "store its indices and values, or x.to_dense()" if tensor.layout in _SPARSE else "store x.to_dense()"
    raise InvalidRequestError(f"tensor {name!r} has the layout {tensor.layout}; {way}")


def _check(name: str, tensor: torch.Tensor) -> None:
    check_form(name, tensor)
    numpy_dtype_of(name, tensor.dtype)
    if tensor.is_meta or hasattr(tensor, "fake_mode"):
        raise InvalidRequestError(f"tensor {name!r} is on the meta device: it has no elements to store or to fill")
    if hasattr(tensor, "device_mesh"):
        raise InvalidRequestError(f"tensor {name!r} is a DTensor: store its parts, not the DTensor")
