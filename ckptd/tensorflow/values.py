"""TensorFlow's tensors as arrays that `Checkpointer.save` takes, without a copy where that is possible."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from ckptd.client.capture.arrays import Array
from ckptd.errors import InvalidRequestError


def view_of(tensor: Any) -> Array:
    """Return an eager tensor as an array, in the tensor's own memory if that can be; ``numpy()`` would copy it."""
    if tensor.dtype.base_dtype == tf.variant:
        raise InvalidRequestError("a variant has no value outside of TensorFlow")
    if tensor.dtype == tf.string:
        return named(tensor.numpy(), tensor.dtype)
    try:
        return named(np.asarray(memoryview(tensor)), tensor.dtype)
    except (TypeError, ValueError, BufferError):  # bfloat16 and its kin; tensors on other devices
        return named(tensor.numpy(), tensor.dtype)


def named(value: Any, dtype: Any) -> Array:
    """Return TensorFlow's value of a tensor of `dtype` as an array of that dtype; quantized numbers come as plain."""
    wanted = dtype.base_dtype.as_numpy_dtype
    if wanted is object:
        return np.array(value, object)
    array: Array = np.asarray(value)
    return array if array.dtype == np.dtype(wanted) else array.view(wanted)
