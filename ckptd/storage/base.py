"""What a store promises. Local disk, memory and buckets all keep it, and one suite of tests holds them to it.

A store keeps *objects* under *keys*. A key is a relative path of plain components joined by ``/``, such as
``runs/mnist/model.ckpt-1200.index``; a store refuses any key that could leave its root. Three rules carry
every promise that the engine makes:

- **Whole or not at all.** No reader sees an object before it is complete, nor half of a replaced one.
- **On return it is durable.** `put`, `replace`, `delete` and `ObjectWriter.finish` return when their effect
  survives kill -9 and a power cut; before that a crash may leave the old state or the new one, never a third.
- **Create never replaces.** `put` and `finish` raise `ConflictError` if the key is taken, also when many race.

Every method may be called from any thread, blocks, and raises only errors of `ckptd.errors`: `NotFoundError`,
`ConflictError`, `StorageFullError` (disk, quota, inodes), `NotPermittedError`, `UnavailableError` (try again),
`CorruptionError` (fewer bytes than the object should have).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Protocol, runtime_checkable

Buffer = bytes | bytearray | memoryview


class Durability(Enum):
    """How much an acknowledged object survives, from least to most."""

    MEMORY = "memory"  # gone with the process
    LOCAL_DISK = "local_disk"  # survives power loss of this host
    OBJECT_STORE = "object_store"  # survives loss of this host


@dataclass(frozen=True, slots=True)
class ObjectStat:
    """What a store knows about one object without reading it.

    `version` changes whenever the content does (an ETag, or inode and times); `modified_at` is wall-clock
    seconds since the epoch, by the store's clock: to a second or two, in what writing returns.
    """

    key: str
    size_bytes: int
    modified_at: float
    version: str


class ByteSink(Protocol):
    """Takes the bytes of an object, wherever that is finished."""

    def write(self, offset: int, data: Buffer) -> None:
        """Put `data` at byte `offset`. Any order; several threads may write disjoint ranges at once."""


class ObjectWriter(ByteSink, Protocol):
    """One object that is being written: no reader sees it until `finish` returns. Its size is fixed at the start."""

    key: str
    size_bytes: int

    def finish(self) -> ObjectStat:
        """Make the object durable and visible under its key.

        The caller has written every byte (ranges never written read as zeros). A failed finish is final:
        the bytes are gone and must be written to a new writer. `ConflictError` if the key is taken.
        """

    def abort(self) -> None:
        """Drop the object and free its space. May be called at any time, repeatedly, also after a failure."""


@runtime_checkable
class BorrowingWriter(ObjectWriter, Protocol):
    """A writer that can avoid a copy of bytes that stay where they are."""

    def borrow(self, offset: int, data: memoryview, crc: int) -> None:
        """As `write`, but `data` is read where it is, until `finish` or `abort` returns.

        `crc` is its CRC-32C: bytes that differ when they are read never become part of an object, so the memory
        may be shared with a process that is not trusted to leave it unchanged. Then `finish` raises `CorruptionError`.
        """


@runtime_checkable
class SparingStore(Protocol):
    """A store that can be full, and can even then do two things that a removal needs."""

    def replace_within(self, reserve: str, key: str, data: Buffer, *, if_version: str | None = None) -> ObjectStat:
        """As `Store.replace`, but in the space of the object `reserve`, which is used up; no new space is needed.

        `NotFoundError` when there is no such object; `StorageFullError` when it is too small for `data`.
        """

    def link(self, key: str, other: str) -> None:
        """Give an object a second key, durably, without a copy of its bytes; `ConflictError` if that is taken.

        Objects never change in place, so each of the two may be replaced or deleted without regard to the other.
        """


class Lock(Protocol):
    """A held lock, for the life of this process at most. Release by `release` or by leaving the context.

    `taken_at` is when it was taken, by the clock that `ObjectStat.modified_at` goes by; None where locks are real.
    `taken_from` are the lines of holders that did not release it, where it is only a note.
    """

    taken_at: float | None
    taken_from: tuple[str, ...]

    def release(self) -> None:
        """Release it; harmless when repeated."""

    def __enter__(self) -> Lock: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class AccessPattern:
    """How one process reads fastest from a store.

    Attributes:
        num_readers: threads that read at once.
        gap_bytes: gaps of fewer bytes between ranges are better read than skipped.
        request_bytes: the best size of one request for adjoining bytes.
    """

    num_readers: int
    gap_bytes: int
    request_bytes: int = 8 << 20


class Store(Protocol):
    """A store of objects. See the module for what every method promises."""

    @property
    def url(self) -> str:
        """Where the store is, as a user would write it; a plain absolute path for a local one."""

    @property
    def durability(self) -> Durability:
        """What an acknowledged write survives here."""

    @property
    def access(self) -> AccessPattern:
        """How objects are read fastest from here."""

    @property
    def has_locks(self) -> bool:
        """Whether `lock` keeps others out. Where it does not, owners fence each other off by conditional writes."""

    @property
    def verifies_writes(self) -> bool:
        """Whether a write is acknowledged only after its checksum was compared, so that nothing need be read back."""

    def broken_promises(self) -> Sequence[str]:
        """Return in which ways owners are not kept apart here, as text for people; usually none.

        Two owners that use a store without locks and without conditions would lose data. Whether the store honours
        conditions is tested, with objects that are removed again.
        """

    def location(self, key: str) -> str:
        """`url` and `key` joined: what a person or another program opens."""

    def create(self, key: str, size_bytes: int) -> ObjectWriter:
        """Start an object of exactly `size_bytes`; space is reserved where the store can.

        `StorageFullError` at once if it cannot fit.
        """

    def put(self, key: str, data: Buffer) -> ObjectStat:
        """Create a small object; `ConflictError` if the key is taken."""

    def replace(self, key: str, data: Buffer, *, if_version: str | None = None) -> ObjectStat:
        """Create the object or replace it whole. With `if_version`, only if it still has that version."""

    def get(self, key: str, *, limit_bytes: int = 1 << 31) -> bytes:
        """Return a whole object; `CorruptionError` when it is larger than `limit_bytes`."""

    def read_into(self, key: str, offset: int, *into: memoryview) -> None:
        """Fill `into` (writable, contiguous), one after another, with the bytes from `offset` on, in one request.

        `CorruptionError` if the object ends before they are full.
        """

    def stat(self, key: str) -> ObjectStat:
        """Describe one object; `NotFoundError` if there is none."""

    def list(self, directory: str, *, deep: bool = True) -> Iterator[ObjectStat]:
        """Yield the objects directly or deeper below `directory` ("" is the root).

        Those of one directory come in key order; which directory comes first, the store decides. With `deep` False only
        those directly in it. What a store keeps for itself (unfinished objects, locks) is left out. A missing directory
        is empty.
        """

    def keys(self, directory: str, starts_with: str = "") -> Sequence[str]:
        """Return the keys directly in `directory` whose last component starts so, in order; no object is read."""

    def delete(self, keys: Sequence[str], *, if_version: str | None = None) -> None:
        """Remove objects, in the given order; missing ones are fine. All are durably gone on return.

        With `if_version`, nothing is removed unless the first still has that version (`ConflictError`), where the store
        can make sure of that.
        """

    def sweep_unfinished(
        self,
        directory: str,
        *,
        given_up: Collection[str] = (),
        spare: Collection[str] = (),
        only: Collection[str] | None = None,
    ) -> Sequence[str]:
        """Remove what writers that died left directly in `directory`; return the keys they were for.

        What a writer of any process may still fill is left alone, unless its key is in `given_up`: the caller owns
        these keys, and has made sure that no rightful writer fills them. The keys in `spare` are left alone whatever
        is known of their writers: the caller knows that they are filled, perhaps on another host, about whose
        processes a store can be wrong. With `only`, nothing is touched but what was for these keys.
        """

    def lock(self, key: str, *, holder: str, shared: bool = False, takes_over: bool = True) -> Lock:
        """Take the lock named `key`, without waiting.

        `holder` is a line for people ("ckptd serve, pid 4711 on host-a, 127.0.0.1:7070"). `ConflictError`
        carries the present holder's line in `actual`. Dies with the process, never by a time-out. In a store without
        locks (`has_locks`) a lock is only a note: a holder known to be alive keeps others out, one known to be dead
        does not, and an unknown one, like a process of another host, is taken over from only if `takes_over`.
        """

    def free_bytes(self) -> int | None:
        """How much still fits, None where that has no meaning."""


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
        """Say where an object is, for messages."""


@runtime_checkable
class LayeredObjects(Objects, Protocol):
    """Objects that are read from a copy where there is one. A copy may be wrong: the originals are beneath."""

    @property
    def beneath(self) -> Objects:
        """What the copies were made of."""


@runtime_checkable
class SummingObjects(Objects, Protocol):
    """Objects whose bytes pass through the processor anyway: summing them costs little while they are at hand."""

    def read_summed(self, key: str, offset: int, *into: memoryview) -> list[int]:
        """Do as `read_into`, and return the CRC-32C of each of `into`."""
