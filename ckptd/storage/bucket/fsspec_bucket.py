"""Every storage that fsspec has a package for, as a bucket: `gs://`, `az://` and many more.

fsspec has no conditional requests, so two owners on two hosts cannot be kept apart here: `broken_promises` says so, and
the user decides whether to go on all the same. Within one process conditions hold. Large objects are collected in files
of this host and sent in one piece, as fsspec has no common interface for parts either.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec

from ckptd.errors import (
    CkptdError,
    ConflictError,
    CorruptionError,
    InvalidRequestError,
    NotFoundError,
    NotPermittedError,
    StorageFullError,
    UnavailableError,
)
from ckptd.format.crc32c import crc32c, extend
from ckptd.storage.base import Buffer
from ckptd.storage.bucket.bucket import Head, Upload, UploadedPart, scatter

_PIECE_BYTES = 8 << 20
_ONE_WRITE = threading.Lock()  # check and write are one step within this process


def open_fsspec(scheme: str, name: str) -> FsspecBucket:
    """Return the bucket `name` of a scheme that fsspec supports.

    Raises:
        InvalidRequestError: when it does not support the scheme, or the package for it is missing or rejects its
            configuration.
    """
    try:
        files = fsspec.filesystem(scheme, use_listings_cache=False, skip_instance_cache=True)
    except (ImportError, ValueError, TypeError) as error:
        known = "a path, memory://NAME and s3://BUCKET/PATH need nothing more"
        raise InvalidRequestError(f"there is no store for {scheme}:// here: {error}; {known}") from error
    except Exception as error:
        raise _translated(error, "") from error
    return FsspecBucket(files, scheme, name)


class FsspecBucket:
    """See `ckptd.storage.bucket.bucket.Bucket`."""

    def __init__(self, files: Any, scheme: str, name: str) -> None:
        """`files` is fsspec's file system, `name` where keys begin in it."""
        self.url = f"{scheme}://{name}"
        self.place = self.url
        self.unfenced: str | None = f"{scheme}:// is reached by fsspec, which has no conditional writes"
        self.verifies_writes = False
        self.keeps_metadata = False
        self._files = files
        self._name = name
        self._uploads: dict[str, Path] = {}

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
        """See `Bucket`. Metadata is left out."""
        with _translating(key), _ONE_WRITE:
            self._check(key, if_absent, if_etag)
            if crc is not None and crc != crc32c(data):
                raise CorruptionError("the bytes were damaged on the way", key=key)
            self._make_directory(key)
            self._files.pipe_file(self._path(key), bytes(data))
        return self.head(key)

    def _check(self, key: str, if_absent: bool, if_etag: str | None) -> None:
        if not if_absent and if_etag is None:
            return
        try:
            found: str | None = self.head(key).etag
        except NotFoundError:
            found = None
        if (if_absent and found is not None) or (if_etag is not None and found != if_etag):
            raise ConflictError("the object is not as it was expected to be", key=key, expected=if_etag, actual=found)

    def get(self, key: str, *, limit_bytes: int) -> tuple[bytes, Head]:
        """See `Bucket`."""
        head = self.head(key)
        if head.size_bytes > limit_bytes:
            raise CorruptionError("larger than the limit", key=key, expected=limit_bytes, actual=head.size_bytes)
        with _translating(key):
            return self._files.cat_file(self._path(key)), head

    def read_into(self, key: str, offset: int, *into: memoryview) -> None:
        """See `Bucket`."""
        size = sum(memory.nbytes for memory in into)
        size_bytes = self.head(key).size_bytes
        if offset + size > size_bytes:
            raise CorruptionError(
                "the object ends early", key=key, offset=offset, expected=size, actual=max(0, size_bytes - offset)
            )
        if not size:
            return
        with _translating(key):
            data = self._files.cat_file(self._path(key), start=offset, end=offset + size)
        if len(data) != size:
            raise CorruptionError("the object ends early", key=key, offset=offset, expected=size, actual=len(data))
        scatter(data, into)

    def head(self, key: str) -> Head:
        """See `Bucket`."""
        with _translating(key):
            found = self._files.info(self._path(key))
            if found.get("type") == "directory":
                raise NotFoundError("there is no such object", key=key)
            return self._head(key, found)

    def _head(self, key: str, found: Mapping[str, Any]) -> Head:
        modified = next((found[name] for name in _TIMES if found.get(name) is not None), 0.0)
        if isinstance(modified, str):
            modified = datetime.fromisoformat(modified.replace("Z", "+00:00"))
        modified_at = modified.timestamp() if isinstance(modified, datetime) else float(modified)
        etag = next((str(found[name]) for name in _VERSIONS if found.get(name)), None)
        size_bytes = int(found.get("size") or 0)
        return Head(key, size_bytes, modified_at, etag or f"{modified_at!r}-{size_bytes}")

    def list(self, prefix: str, *, deep: bool) -> Iterator[Head]:
        """See `Bucket`."""
        directory, _, beginning = prefix.rpartition("/")
        path = self._path(directory) if directory else self._name
        with _translating(prefix):
            try:
                if deep and not beginning:
                    entries = list(self._files.find(path, detail=True).values())
                else:
                    entries = list(self._entries(path, beginning, deep))
            except FileNotFoundError:
                entries = []
        found = [(self._key(entry["name"]), entry) for entry in entries if entry.get("type") != "directory"]
        for key, entry in sorted(found, key=lambda pair: pair[0]):
            if key.startswith(prefix):
                yield self._head(key, entry)

    def _entries(self, path: str, beginning: str, deep: bool) -> Sequence[dict[str, Any]]:
        entries = [
            entry
            for entry in self._files.ls(path, detail=True)
            if entry["name"].rstrip("/").rpartition("/")[2].startswith(beginning)
        ]
        below = [entry for entry in entries if entry.get("type") == "directory"] if deep else []
        for directory in below:
            entries += self._files.find(directory["name"], detail=True).values()
        return entries

    def delete(self, key: str, *, if_etag: str | None = None) -> None:
        """See `Bucket`."""
        with _translating(key), _ONE_WRITE, suppress(FileNotFoundError):
            if if_etag is not None:
                self._check(key, False, if_etag)
            self._files.rm_file(self._path(key))

    def delete_many(self, keys: Sequence[str]) -> None:
        """See `Bucket`."""
        for key in keys:
            self.delete(key)

    def create_upload(self, key: str, metadata: Mapping[str, str]) -> str:
        """See `Bucket`. The parts are in a directory of this host, which is its id."""
        with _translating(key):
            directory = tempfile.mkdtemp(prefix="ckptd-upload-")
        self._uploads[directory] = Path(directory)
        return directory

    def upload_part(
        self, key: str, upload_id: str, number: int, *data: memoryview, crc: int | None = None
    ) -> UploadedPart:
        """See `Bucket`."""
        body = b"".join(data)  # a copy of ours, so that the bytes that are summed are those that are written
        found = crc32c(body)
        if crc is not None and crc != found:
            raise CorruptionError("the bytes were damaged on the way", key=key)
        with _translating(key):
            (self._directory(upload_id) / str(number)).write_bytes(body)
        return UploadedPart(number, str(number), found, len(body))

    def complete_upload(
        self, key: str, upload_id: str, parts: Sequence[UploadedPart], *, if_absent: bool = False
    ) -> Head:
        """See `Bucket`."""
        directory = self._directory(upload_id)
        with _translating(key):
            # After an error this object is never created: plain `open` would publish the part that was written.
            self._make_directory(key)
            writer = self._files.open(self._path(key), "wb", autocommit=False)
            try:
                for part in sorted(parts, key=lambda part: part.number):
                    self._append_part(directory / str(part.number), part, writer, key)
                with _ONE_WRITE:
                    self._check(key, if_absent, None)
                    writer.close()
                    writer.commit()
            except BaseException:
                with suppress(Exception):
                    writer.discard()
                raise
        self.abort_upload(key, upload_id)
        return self.head(key)

    def _append_part(self, path: Path, part: UploadedPart, writer: Any, key: str) -> None:
        crc = 0
        with path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                crc = extend(crc, piece)
                writer.write(piece)
        if crc != part.crc32c:
            raise CorruptionError("a part was damaged on this host's disk", key=key, actual=str(path))

    def abort_upload(self, key: str, upload_id: str) -> None:
        """See `Bucket`."""
        directory = self._uploads.pop(upload_id, None)
        if directory is not None:
            shutil.rmtree(directory, ignore_errors=True)

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """See `Bucket`. There are none that others could see."""
        return iter(())

    def has_versions(self) -> bool:
        """See `Bucket`. fsspec does not say."""
        return False

    def aborts_old_uploads(self) -> bool:
        """See `Bucket`. fsspec does not say."""
        return False

    def now(self) -> float:
        """See `Bucket`. fsspec does not say, so this host's."""
        return time.time()

    def _directory(self, upload_id: str) -> Path:
        try:
            return self._uploads[upload_id]
        except KeyError:
            raise NotFoundError("there is no such upload; it was completed or aborted") from None

    def _make_directory(self, key: str) -> None:
        with suppress(NotImplementedError):
            self._files.makedirs(self._path(key).rpartition("/")[0], exist_ok=True)

    def _path(self, key: str) -> str:
        return f"{self._name}/{key}" if self._name else key

    def _key(self, path: str) -> str:
        return path.lstrip("/")[len(self._name.lstrip("/")) :].lstrip("/")


_TIMES = ("LastModified", "mtime", "updated", "last_modified", "modified", "created")
_VERSIONS = ("ETag", "etag", "generation", "md5Hash", "content_md5")


@contextmanager
def _translating(key: str) -> Iterator[None]:
    try:
        yield
    except CkptdError:
        raise
    except Exception as error:
        raise _translated(error, key) from error


def _translated(error: Exception, key: str) -> CkptdError:
    """Translate one of the many errors that packages of fsspec raise."""
    named = key or None
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return NotFoundError("there is no such object", key=named)
        case FileExistsError():
            return ConflictError("this key is taken", key=named)
        case PermissionError():
            return NotPermittedError(f"not allowed: {error}", key=named)
        case IsADirectoryError():
            return NotFoundError("this is a directory, not an object", key=named)
        case NotImplementedError():
            return InvalidRequestError(f"this kind of store cannot do that: {error}", key=named)
        case OSError(errno=28 | 122):  # ENOSPC, EDQUOT
            return StorageFullError(f"there is no space left: {error}", key=named)
        case _:
            return UnavailableError(f"{type(error).__name__}: {error}", key=named)
