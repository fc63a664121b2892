"""An immutable set of small numbers, of which a copy with one more or less is cheap with thousands in it, too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BitSet:
    """Numbers from 0 on: the bits of one integer."""

    bits: int = 0

    @classmethod
    def below(cls, count: int) -> BitSet:
        """Return the numbers from 0 to `count` - 1."""
        return cls((1 << count) - 1)

    def __contains__(self, number: int) -> bool:
        return number >= 0 and bool(self.bits >> number & 1)

    def __len__(self) -> int:
        return self.bits.bit_count()

    def __iter__(self) -> Iterator[int]:
        """Yield the numbers, ascending."""
        return (number for number, bit in enumerate(reversed(f"{self.bits:b}")) if bit == "1")

    def __or__(self, number: int) -> BitSet:
        """Return this set with one number more."""
        return BitSet(self.bits | 1 << number)

    def __sub__(self, number: int) -> BitSet:
        """Return this set without a number."""
        return BitSet(self.bits & ~(1 << number))

    def has_any(self, start: int, stop: int) -> bool:
        """Whether any number from `start` to `stop` - 1 is in it."""
        return bool(self.bits >> start & ((1 << stop - start) - 1))
