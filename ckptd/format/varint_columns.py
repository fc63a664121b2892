"""Varints at many places of one buffer, read all at once."""

from __future__ import annotations

from typing import Any

import numpy as np

from ckptd.format.coding import MAX_VARINT64_BYTES

IntArray = np.ndarray[Any, np.dtype[np.int64]]

PADDING = bytes(2 * MAX_VARINT64_BYTES + 8)
"""To be put behind a buffer: reading a field looks at most so far past the end."""


def read_varints(data: np.ndarray[Any, np.dtype[np.uint8]], at: IntArray) -> tuple[IntArray, IntArray]:
    """Read a varint at each position, the positions being anywhere; return them and the positions after them."""
    numbers = np.zeros(len(at), np.int64)
    more = np.ones(len(at), bool)
    for shift in range(0, 7 * MAX_VARINT64_BYTES, 7):
        group = data[np.minimum(at, len(data) - 1)].astype(np.int64)
        numbers |= np.where(more, (group & 0x7F) << shift, 0)
        at = at + more
        more &= group >= 0x80
        if not more.any():
            break
    return numbers, at
