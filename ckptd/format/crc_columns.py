"""Checksums of many pairs of byte strings laid end to end, from theirs, all at once."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from ckptd.format.crc32c import combine
from ckptd.format.ragged import IntArray

_WORTH_TABLES = 100  # pairs of one size: so many single calls take as long as making its tables

CrcArray = np.ndarray[Any, np.dtype[np.uint32]]


def combine_columns(crcs1: CrcArray, crcs2: CrcArray, sizes2: IntArray) -> CrcArray:
    """Return `crc32c.combine` of each pair; quick where many of the sizes are equal, as those of slices are."""
    sizes, which = np.unique(sizes2, return_inverse=True)
    if len(sizes) * _WORTH_TABLES > len(sizes2):
        pairs = zip(crcs1.tolist(), crcs2.tolist(), sizes2.tolist(), strict=True)
        return np.array([combine(*pair) for pair in pairs], np.uint32)
    combined = crcs2.copy()
    order = np.argsort(which.ravel(), kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(which.ravel()))[:-1])
    for size, rows in zip(sizes.tolist(), groups, strict=True):
        for place, table in enumerate(_tables(size)):
            combined[rows] ^= table[crcs1[rows] >> np.uint32(8 * place) & np.uint32(0xFF)]
    return combined


@lru_cache(maxsize=64)
def _tables(size: int) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """Return what each byte of a checksum, by place and value, adds to it when so many bytes follow.

    A checksum of bytes that go on is linear in the bits of that before.
    """
    tables = np.zeros((4, 256), np.uint32)
    values = np.arange(256)
    for bit in range(32):
        place, within = divmod(bit, 8)
        tables[place, (values >> within & 1) == 1] ^= np.uint32(combine(1 << bit, 0, size))
    return tables
