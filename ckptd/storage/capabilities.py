"""What some stores can do besides the contract of `ckptd.storage.base`. Callers check for these, never for a class.

A wrapper declares its own capabilities; `beneath` returns the store that it wraps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, runtime_checkable

from ckptd.storage.base import LayeredObjects, Objects, ObjectWriter, Store
from ckptd.storage.findings import Finding
from ckptd.storage.pace import Pace


@runtime_checkable
class FileObjects(Protocol):
    """Objects that are files of this host, each at a path of its own."""

    def local_path(self, key: str) -> str:
        """Return the absolute path of an object or a directory, "" being the root; nothing need be there."""


@runtime_checkable
class FileStore(FileObjects, Protocol):
    """A store in a file system, where pipes, links, directories and files of its own are beside objects."""

    def names(self, directory: str) -> dict[str, bool]:
        """Return what is directly in a directory, whatever it is, and whether it is a directory; links are none."""

    def is_file(self, name: str) -> bool:
        """Say whether a path below the root is a file, and no link to one; also of the store's own names."""

    def put_away(self, name: str) -> str:
        """Rename whatever is at a path below the root, object or not, within its directory; return its path now.

        Durable on return.
        """


@runtime_checkable
class DiskStore(Protocol):
    """A store that knows in which of several ways its disk is written."""

    def write_mode(self) -> Enum:
        """Return how bulk data is written; the value is a word for it. It is tested if need be."""


@runtime_checkable
class ReservingStore(Protocol):
    """A store in which an object has its space from the moment at which it is started."""

    def create_unreserved(self, key: str, size_bytes: int) -> ObjectWriter:
        """Start an object as `create` does; it gets its space as its bytes come."""


@runtime_checkable
class PacedStore(Protocol):
    """A store that takes only so many requests a second, of all hosts together."""

    def create_paced(self, key: str, size_bytes: int, pace: Pace | None) -> ObjectWriter:
        """Start an object as `create` does, and send it at that pace."""


@runtime_checkable
class SharedObjects(Protocol):
    """Objects that several processes of this host can read at once for the price of one."""

    def read_by_many(self) -> Objects:
        """Return the same objects, for reading what other processes of this host read as well."""


@runtime_checkable
class ViewedObjects(Objects, Protocol):
    """Objects whose bytes lie in memory in the form in which they are sent."""

    def views(self, key: str, offset: int, size: int) -> list[memoryview]:
        """Return the bytes from `offset` on, in order, as they lie there. Nothing changes them."""


@runtime_checkable
class ForeseeingObjects(Protocol):
    """Objects that are read faster by who says what will be read."""

    def foresee(self, ranges: Sequence[tuple[str, int, int]]) -> None:
        """Hear which ranges will be read, nearly in this order: key, offset and size of each."""


@dataclass(frozen=True, slots=True)
class SlicePart:
    """A stored slice of which a reader wants a part, and whose checksum covers all of it.

    Attributes:
        offset, size: of the whole slice, in its data file.
        crc32c: of the whole slice, from the index.
        wanted_bytes: how much of it the reader wants in all.
    """

    offset: int
    size: int
    crc32c: int
    wanted_bytes: int


@runtime_checkable
class CheckingObjects(Objects, Protocol):
    """Copies of objects, where parts of slices can be compared with the checksum of the whole before they are sent."""

    def read_parts(self, key: str, offset: int, slices: Sequence[SlicePart], *into: memoryview) -> None:
        """Do as `Objects.read_into`; what belongs to one of `slices` is as in the original, or `CorruptionError`."""


@runtime_checkable
class PooledObjects(LayeredObjects, Protocol):
    """Objects that the agents of many hosts read together, so that the store gives each byte once."""

    @property
    def own(self) -> Objects:
        """The same, read for another agent: no further one is asked."""

    def held(self, save: str) -> Objects:
        """The same, for another agent, as far as memory of this host has it of a save; `NotFoundError` else."""

    def expect(self, key: str, offset: int, size: int) -> None:
        """Hear that a rank of this host will read these bytes soon."""

    def checked(self, slices: Sequence[SlicePart], num_ranks: int) -> Objects:
        """The same, for one of so many ranks of this host that read alike: see `CheckingObjects.read_parts`."""

    def forget(self, key: str) -> None:
        """Keep nothing more of an object, as it was found damaged."""


@runtime_checkable
class NestedStore(Protocol):
    """A store in which a directory is a store of its own."""

    def at(self, directory: str) -> Store:
        """Return the store of a directory below the root, over the same connection. No request is made."""


@runtime_checkable
class ProbedStore(Protocol):
    """A store on a server that can be tested: does it keep what a store promises?"""

    @property
    def place(self) -> str:
        """Which server that is, for people."""

    def probe(self) -> Iterator[Finding]:
        """Test every promise, on objects that are removed again; yield the result of each check."""

    def holder_of(self, key: str) -> str | None:
        """Return the holder of a lock, from its line; None if the lock is free."""


def local_path(objects: object, key: str = "") -> str | None:
    """Return the path on this host of an object, or of a directory, "" being the root; None where there is none."""
    return objects.local_path(key) if isinstance(objects, FileObjects) else None


def read_by_many(objects: Objects) -> Objects:
    """Return the same objects, for reading what other processes of this host read as well."""
    return objects.read_by_many() if isinstance(objects, SharedObjects) else objects


def beneath(objects: Objects) -> Objects:
    """Return the objects beneath all copies: the originals."""
    while isinstance(objects, LayeredObjects):
        objects = objects.beneath
    return objects
