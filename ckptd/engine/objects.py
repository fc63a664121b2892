"""What reading a checkpoint needs of the place where its files are."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from ckptd.storage.base import AccessPattern, ObjectStat


class Objects(Protocol):
    """What reading needs of a store. A store has it, and a client of a daemon offers it over the wire."""

    @property
    def access(self) -> AccessPattern:
        """How they are read fastest."""

    def get(self, key: str, *, limit_bytes: int = ...) -> bytes:
        """Return a whole object."""

    def read_into(self, key: str, offset: int, *into: memoryview) -> None:
        """Fill `into`, one after another, from byte `offset` on; called from several threads."""

    def stat(self, key: str) -> ObjectStat:
        """Describe one object; `NotFoundError` if there is none."""

    def location(self, key: str) -> str:
        """Say where an object is, for people."""


@runtime_checkable
class LayeredObjects(Objects, Protocol):
    """Objects that are read from a copy where there is one, and that may be wrong: the originals lie beneath."""

    @property
    def beneath(self) -> Objects:
        """What the copies were made of."""


@runtime_checkable
class SummingObjects(Objects, Protocol):
    """Objects whose bytes pass through the processor anyway: summing them costs little while they are at hand."""

    def read_summed(self, key: str, offset: int, *into: memoryview) -> list[int]:
        """Do as `read_into`, and return the CRC-32C of each of `into`."""
