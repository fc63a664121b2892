"""npz files: zip archives of npy arrays, read as streams, compressed or not."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import numpy as np

from ckptd.errors import CkptdError, CorruptionError, InvalidRequestError, NotFoundError, readable_size
from ckptd.interchange import npy
from ckptd.interchange.source import BLOCK_BYTES, Array, ObjectFile, TensorFacts, unsupported
from ckptd.storage.base import Objects

SUFFIX = ".npz"
MEMBER_SUFFIX = ".npy"
MAX_TRANSPOSED_BYTES = 256 << 20
"""Arrays in column order are transposed in memory, up to this size."""

MAX_UNPACKED_BYTES = 1 << 30
"""An archive may unpack to so much, or to `MAX_GROWTH` times its own size: three megabytes of zeros can stand for three
gigabytes."""

MAX_GROWTH = 64

_MAX_DEFLATE_RATIO = 1100  # deflate cannot do better than 1032
BUFFER_BYTES = 1 << 20
_WRONG_BYTES = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    MemoryError,
    ValueError,
    OSError,
    OverflowError,
    KeyError,
)


class NpzSource:
    """Reads one npz file. A member's CRC-32 is compared when its stream ends.

    Attributes:
        metadata: always empty, as the format has none.
    """

    def __init__(self, objects: Objects, key: str) -> None:
        """Read the archive's directory and all headers.

        Raises:
            NotFoundError: when there is no such object.
            CorruptionError: when it is no npz file.
            InvalidRequestError: when a member is encrypted, or compressed in a way that numpy never uses.
        """
        self._location = objects.location(key)
        raw = ObjectFile(objects, key)
        file = io.BufferedReader(raw, BUFFER_BYTES)
        with self._translated():
            self._archive = zipfile.ZipFile(file)
        self.metadata: dict[str, str] = {}
        self._members: dict[str, zipfile.ZipInfo] = {}
        self._headers: dict[str, npy.NpyHeader] = {}
        for member in self._archive.infolist():
            self._add(member)
        self._packed_bytes = raw.size_bytes
        self._unpacked_bytes = sum(member.file_size for member in self._members.values())

    def _add(self, member: zipfile.ZipInfo) -> None:
        if not member.filename.endswith(MEMBER_SUFFIX) or member.filename == MEMBER_SUFFIX:
            raise CorruptionError(f"member {member.filename!r} is no array: this is no npz file", key=self._location)
        name = member.filename.removesuffix(MEMBER_SUFFIX)
        if name in self._members:
            raise CorruptionError(f"array {name!r} is twice in this npz file", key=self._location)
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
            raise InvalidRequestError(f"array {name!r} is encrypted or compressed unusually", key=self._location)
        if member.file_size > (member.compress_size + 1) * _MAX_DEFLATE_RATIO:
            raise CorruptionError(f"array {name!r} cannot be so large", key=self._location, actual=member.file_size)
        with self._translated(name), self._archive.open(member) as file:
            preamble = _read(file, npy.PREAMBLE_BYTES)
            header = npy.decode_header(preamble + _read(file, npy.header_size(preamble) - len(preamble)))
        facts = _facts(name, header)
        if facts.dtype is not None and header.header_bytes + facts.size_bytes != member.file_size:
            raise CorruptionError(
                f"array {name!r} does not have the size of its shape",
                key=self._location,
                expected=header.header_bytes + facts.size_bytes,
                actual=member.file_size,
            )
        self._members[name] = member
        self._headers[name] = header

    @property
    def location(self) -> str:
        """The file's path or URL."""
        return self._location

    def names(self) -> list[str]:
        """See `TensorSource`."""
        return sorted(self._members, key=lambda name: name.encode("utf-8", "surrogatepass"))

    def facts(self, name: str) -> TensorFacts:
        """See `TensorSource`."""
        if name not in self._headers:
            raise NotFoundError(f"there is no array {name!r} in {self._location}")
        return _facts(name, self._headers[name])

    def size_bytes(self, name: str) -> int:
        """Return how many bytes an array has when it is not compressed."""
        return self._members[name].file_size - self._headers[name].header_bytes

    def check(self, name: str) -> None:
        """See `TensorSource`: no archive that unpacks to much more than it is."""
        if self._unpacked_bytes > max(MAX_UNPACKED_BYTES, MAX_GROWTH * self._packed_bytes):
            raise InvalidRequestError(
                f"array {name!r} is not read: this file unpacks to {readable_size(self._unpacked_bytes)}, "
                f"{self._unpacked_bytes // max(1, self._packed_bytes)} times its size, as a file does that is meant to "
                "fill memory or disk; if you trust it, write it again with numpy.savez, which does not compress",
                key=self._location,
            )

    def stream(self, name: str) -> Iterator[Array]:
        """See `TensorSource`."""
        self.check(name)
        facts, header = self.facts(name), self._headers[name]
        if facts.dtype is None or facts.dtype.array is None:
            raise unsupported(facts, "a checkpoint")
        with self._translated(name), self._archive.open(self._members[name]) as file:
            _read(file, header.header_bytes)
            if header.fortran_order and sum(size > 1 for size in facts.shape) > 1:
                yield self._transposed(facts, header, file)
                return
            width = facts.dtype.width
            for part in _parts(file, facts.size_bytes, BLOCK_BYTES // width * width):
                yield _native(np.frombuffer(part, facts.dtype.array), header)
            if file.read(1):  # what makes zipfile compare the checksum
                raise CorruptionError(f"array {name!r} goes on behind its end", key=self._location, tensor=name)

    def _transposed(self, facts: TensorFacts, header: npy.NpyHeader, file: IO[bytes]) -> Array:
        if facts.size_bytes > MAX_TRANSPOSED_BYTES:
            raise InvalidRequestError(
                f"array {facts.name!r} is in column order and too large to transpose in memory; "
                "save numpy.ascontiguousarray(array) instead",
                key=self._location,
                expected=f"at most {MAX_TRANSPOSED_BYTES} bytes",
                actual=facts.size_bytes,
                tensor=facts.name,
            )
        assert facts.dtype is not None
        data = b"".join(_parts(file, facts.size_bytes, BLOCK_BYTES))
        file.read(1)
        array = np.frombuffer(data, facts.dtype.array).reshape(facts.shape[::-1]).T
        return _native(np.ascontiguousarray(array).reshape(-1), header)

    @contextmanager
    def _translated(self, name: str | None = None) -> Iterator[None]:
        """Translate errors of zipfile and zlib about wrong bytes into ckptd's errors, with the name of the array."""
        about = "" if name is None else f"array {name!r}: "
        try:
            yield
        except CkptdError as error:
            if name is not None and error.tensor is None:
                error.add_note(f"in array {name!r} of {self._location}")
            raise
        except (NotImplementedError, RuntimeError) as error:  # compressed or encrypted in a way we cannot read
            raise InvalidRequestError(f"{about}{error}", key=self._location) from error
        except _WRONG_BYTES as error:
            raise CorruptionError(f"{about}this npz file is damaged: {error}", key=self._location) from error


def _facts(name: str, header: npy.NpyHeader) -> TensorFacts:
    return TensorFacts(name, header.dtype, header.dtype.name if header.dtype else header.descr, header.shape)


def _native(array: Array, header: npy.NpyHeader) -> Array:
    """Return little-endian elements, from memory that holds them as the file does."""
    return array.view(array.dtype.newbyteorder(">")).astype(array.dtype) if header.big_endian else array


def _parts(file: IO[bytes], size: int, limit: int) -> Iterator[bytes]:
    for at in range(0, size, limit):
        yield _read(file, min(limit, size - at))


def _read(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise EOFError("it ends early")
    return data
