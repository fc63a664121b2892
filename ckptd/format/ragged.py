"""Rows of bytes of different lengths in one buffer: what many keys or values are without an object for each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

IntArray = np.ndarray[Any, np.dtype[np.int64]]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]

_LONG = 256  # bytes: rows of so many are copied one by one


@dataclass(frozen=True, eq=False, slots=True)
class Ragged:
    """Row `i` is `data[starts[i] : starts[i] + sizes[i]]`; rows may lie anywhere in the buffer, in any order."""

    data: Bytes
    starts: IntArray
    sizes: IntArray

    @classmethod
    def of(cls, rows: Sequence[bytes]) -> Ragged:
        """Put rows one after another."""
        sizes = np.fromiter(map(len, rows), np.int64, len(rows))
        return cls.laid_end_to_end(np.frombuffer(b"".join(rows), np.uint8), sizes)

    @classmethod
    def laid_end_to_end(cls, data: Bytes, sizes: IntArray) -> Ragged:
        """Take rows of these sizes, one after another."""
        return cls(data, np.cumsum(sizes) - sizes, sizes)

    @classmethod
    def joined(cls, parts: Iterable[Ragged]) -> Ragged:
        """Return the rows of all parts."""
        parts = [each for each in parts if len(each)]
        if len(parts) == 1:
            return parts[0]
        before = np.cumsum([0, *(len(each.data) for each in parts)]).tolist()
        starts = [each.starts + at for each, at in zip(parts, before, strict=False)]
        return cls(
            np.concatenate([np.zeros(0, np.uint8), *(each.data for each in parts)]),
            np.concatenate([np.zeros(0, np.int64), *starts]),
            np.concatenate([np.zeros(0, np.int64), *(each.sizes for each in parts)]),
        )

    def __len__(self) -> int:
        return len(self.sizes)

    def take(self, rows: IntArray | slice) -> Ragged:
        """Return some rows, or all in another order; the bytes stay where they are."""
        return Ragged(self.data, self.starts[rows], self.sizes[rows])

    def compact(self) -> Ragged:
        """Return the same rows, without what else is in the buffer."""
        compact = Ragged.laid_end_to_end(np.empty(int(self.sizes.sum()), np.uint8), self.sizes)
        self.put(compact.data, compact.starts)
        return compact

    def row(self, number: int) -> bytes:
        """Return one row."""
        start = int(self.starts[number])
        return self.data[start : start + int(self.sizes[number])].tobytes()

    def split(self) -> list[bytes]:
        """Return all rows as objects of their own."""
        flat = self.data.tobytes()
        return [flat[at : at + size] for at, size in zip(self.starts.tolist(), self.sizes.tolist(), strict=True)]

    def put(self, into: Bytes, at: IntArray) -> None:
        """Copy each row to its place in another buffer."""
        size = int(self.sizes.sum())
        if size >= _LONG * len(self):
            rows = zip(self.starts.tolist(), self.sizes.tolist(), at.tolist(), strict=True)
            for start, length, to in rows:
                into[to : to + length] = self.data[start : start + length]
            return
        first = int(self.starts[0])
        is_end_to_end = bool((self.starts[1:] == self.starts[:-1] + self.sizes[:-1]).all())
        source = self.data[first : first + size] if is_end_to_end else self.data[places(self.starts, self.sizes)]
        into[places(at, self.sizes)] = source


def places(starts: IntArray, sizes: IntArray) -> IntArray:
    """Return the positions of all bytes of rows that begin at `starts`, row after row."""
    ends = np.cumsum(sizes)
    at: IntArray = np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(starts - (ends - sizes), sizes)
    return at
