"""What we need of a bucket: a handful of requests, in the words of S3.

Every method blocks, may be called from any thread, and raises only errors of `ckptd.errors`. A condition that does not
hold is a `ConflictError`; what may succeed later is an `UnavailableError`. After that the request may have been
carried out or not: the caller has to read the object.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ckptd.storage.base import Buffer


@dataclass(frozen=True, slots=True)
class Head:
    """What a bucket knows about one object. `modified_at`: seconds since the epoch; `metadata`: lower-case names."""

    key: str
    size_bytes: int
    modified_at: float
    etag: str
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UploadedPart:
    """One uploaded part: its number from 1 on, and what completing the upload has to repeat."""

    number: int
    etag: str
    crc32c: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart upload that is neither completed nor aborted. `began_at` is in seconds since the epoch."""

    key: str
    upload_id: str
    began_at: float


class Bucket(Protocol):
    """See the module. Keys are whole keys of the bucket."""

    url: str
    place: str  # where the bucket is: buckets of one place are the same
    unfenced: str | None  # why conditions do not keep owners of several hosts apart; None where they may
    verifies_writes: bool  # whether checksums are sent along for the bucket to compare
    keeps_metadata: bool  # whether `head` returns a writer's metadata, which identifies its object

    def put(
        self,
        key: str,
        data: Buffer,
        *,
        if_absent: bool = False,
        if_etag: str | None = None,
        metadata: Mapping[str, str] | None = None,
        crc: int | None = None,
    ) -> Head:
        """Write a whole object, with a checksum that the bucket compares; describe it, its time to a second or two.

        `crc` is sent in place of the right CRC-32C, to test whether it is compared.

        Raises:
            ConflictError: it is there although `if_absent`, or is not what `if_etag` says.
        """

    def get(self, key: str, *, limit_bytes: int) -> tuple[bytes, Head]:
        """Return a whole object; `CorruptionError` when it is larger than `limit_bytes`."""

    def read_into(self, key: str, offset: int, *into: memoryview) -> None:
        """Fill `into`, one after another, from byte `offset` on; `CorruptionError` when the object ends before."""

    def head(self, key: str) -> Head:
        """Describe one object; `NotFoundError` if there is none."""

    def list(self, prefix: str, *, deep: bool) -> Iterator[Head]:
        """Yield the objects whose keys begin with `prefix`; without those behind a further ``/`` unless `deep`.

        Those of one directory come in key order. Metadata is left out.
        """

    def delete(self, key: str, *, if_etag: str | None = None) -> None:
        """Delete one object; a missing one is fine. `ConflictError` when it is not what `if_etag` says, as far as the
        bucket compares that.
        """

    def delete_many(self, keys: Sequence[str]) -> None:
        """Delete objects, in no order; missing ones are fine."""

    def create_upload(self, key: str, metadata: Mapping[str, str]) -> str:
        """Begin a multipart upload; return its id."""

    def upload_part(
        self, key: str, upload_id: str, number: int, *data: memoryview, crc: int | None = None
    ) -> UploadedPart:
        """Upload one part, which consists of several buffers, one after another; the bucket compares `crc`.

        Raises:
            CorruptionError: the bytes that arrived have another CRC-32C.
        """

    def complete_upload(
        self, key: str, upload_id: str, parts: Sequence[UploadedPart], *, if_absent: bool = False
    ) -> Head:
        """Make an object of all parts at once; describe it as the bucket's answer does.

        Raises:
            ConflictError: it is there although `if_absent`.
            NotFoundError: there is no such upload: completed already, or aborted.
        """

    def abort_upload(self, key: str, upload_id: str) -> None:
        """Drop an upload and its parts; one that is gone is fine."""

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """Yield the uploads of keys that begin with `prefix`."""

    def has_versions(self) -> bool:
        """Say whether what is deleted or replaced is kept, so that deleting frees nothing."""

    def aborts_old_uploads(self) -> bool:
        """Say whether a rule of the bucket deletes uploads that are not completed."""

    def now(self) -> float:
        """Return the time by the bucket's own clock, in seconds since the epoch."""


def scatter(data: Buffer, into: Sequence[memoryview]) -> None:
    """Copy `data` into several buffers, one after another, of the same total length."""
    view, at = memoryview(data), 0
    for memory in into:
        memory.cast("B")[:] = view[at : at + memory.nbytes]
        at += memory.nbytes
