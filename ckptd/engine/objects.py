"""What reading a checkpoint needs of the place where its files are."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from ckptd.storage.base import ObjectStat


class Objects(Protocol):
    """What reading needs of a store. A store has it, and a client of a daemon offers it over the wire."""

    @property
    def gap_bytes(self) -> int:
        """Fewer unwanted bytes than these are better read than asked around."""

    @property
    def num_readers(self) -> int:
        """How many threads are best to read at once."""

    def get(self, key: str, *, limit_bytes: int = ...) -> bytes:
        """Return a whole object."""

    def read_into(self, key: str, offset: int, *into: memoryview) -> None:
        """Fill `into`, one after another, from byte `offset` on; called from several threads."""

    def stat(self, key: str) -> ObjectStat:
        """Describe one object; `NotFoundError` if there is none."""

    def location(self, key: str) -> str:
        """Say where an object is, for people."""


@runtime_checkable
class SummingObjects(Objects, Protocol):
    """Objects whose bytes come from memory, where summing them costs nothing while they are still at hand."""

    def read_summed(self, key: str, offset: int, *into: memoryview) -> list[int]:
        """Do as `read_into`, and return the CRC-32C of each of `into`."""
