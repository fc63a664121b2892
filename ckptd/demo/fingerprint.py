"""Comparing states that are cut differently: a digest of the whole logical state, made from digests of rows.

Each worker hashes the rows that it keeps. Put together in row order they give one digest of each tensor, and those
one digest of the state, whichever worker held which row. Any flipped bit anywhere changes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class RowDigests:
    """The digests (hexadecimal SHA-256) of consecutive rows of one tensor, the first of which is row `begin`."""

    begin: int
    digests: tuple[str, ...]


def of_rows(array: NDArray[np.generic], begin: int = 0) -> RowDigests:
    """Hash each row (along axis 0) of a part that begins at row `begin`; a scalar is one row."""
    rows = np.ascontiguousarray(np.atleast_1d(array))
    return RowDigests(begin, tuple(hashlib.sha256(row.tobytes()).hexdigest() for row in rows))


def of_whole(array: NDArray[np.generic]) -> RowDigests:
    """Hash a replicated tensor at once, as if it were one row."""
    return RowDigests(0, (hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest(),))


def combine(parts: Sequence[Mapping[str, RowDigests]]) -> str:
    """Return the digest of the state that `parts`, one mapping per worker, make up together.

    Where several workers hold the same row they must agree, and no row may be missing: `ValueError` otherwise.
    """
    rows: dict[str, dict[int, str]] = {}
    for part in parts:
        for name, held in part.items():
            known = rows.setdefault(name, {})
            for index, digest in enumerate(held.digests, held.begin):
                if known.setdefault(index, digest) != digest:
                    raise ValueError(f"two workers disagree on row {index} of {name}")
    whole = hashlib.sha256()
    for name, known in sorted(rows.items()):
        if sorted(known) != list(range(len(known))):
            raise ValueError(f"rows of {name} are missing")
        whole.update(f"{name}\0{len(known)}\0".encode())
        for index in range(len(known)):
            whole.update(bytes.fromhex(known[index]))
    return whole.hexdigest()
