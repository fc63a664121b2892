"""A whole ``.index``: header, entries and slices ⇄ bytes.

An index is a table. The empty key holds the header; a tensor's name holds its entry; a tensor stored in slices has a
full entry that lists them and one entry per slice under an encoded key. Nothing marks a key as a slice's: it is
one because a full entry lists it.
Source: TensorFlow ``tensorflow/core/protobuf/tensor_bundle.proto``, ``tensorflow/core/util/tensor_bundle/``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from google.protobuf.message import DecodeError

from ckptd.errors import CkptdError, CorruptionError, InvalidRequestError, NotFoundError
from ckptd.format import columns, dtypes, slices, table, tensors, tiling
from ckptd.format import crc32c as checksum
from ckptd.format.bundle_pb2 import BundleEntryProto, BundleHeaderProto, TensorShapeProto
from ckptd.format.dtypes import DType
from ckptd.format.names import tensor_key, tensor_name
from ckptd.format.slice_list import slice_columns
from ckptd.format.slices import Box, TensorSlice

if sys.version_info >= (3, 11):
    from typing import Self
else:
    from typing_extensions import Self

READER_VERSION = 1
WRITER_VERSION = 1
HEADER_KEY = b""
_MAX_INT32 = (1 << 31) - 1
MAX_INT64 = (1 << 63) - 1

NO_CRC32C = checksum.unmask(0)
"""The checksum of an entry that has none: its masked form is 0, which protobuf leaves out."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The value under one key, as recorded and not yet checked; `crc32c` is the plain checksum."""

    dtype: int
    shape: tuple[int, ...]
    shard_id: int = 0
    offset: int = 0
    size: int = 0
    crc32c: int = NO_CRC32C
    slices: tuple[TensorSlice, ...] = ()

    def encode(self) -> bytes:
        """Return the entry's bytes as TensorFlow serializes them."""
        message = BundleEntryProto(
            dtype=self.dtype,
            shard_id=self.shard_id,
            offset=self.offset,
            size=self.size,
            crc32c=checksum.mask(self.crc32c),
        )
        # The shape is there even when it is a scalar's and empty.
        message.shape.SetInParent()
        for size in self.shape:
            message.shape.dim.add(size=size)
        for recorded in self.slices:
            proto = message.slices.add()
            for start, length in recorded.extents:
                extent = proto.extent.add(start=start)
                if length is not None:
                    extent.length = length
        return message.SerializeToString(deterministic=True)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read an entry, skipping unknown fields.

        Raises:
            CorruptionError: if the bytes are no such message, or the shape's rank is unknown.
        """
        return cls.of(_parse(data))

    @classmethod
    def of(cls, message: BundleEntryProto) -> Self:
        """Return what a message says."""
        return cls(
            message.dtype,
            tuple([dim.size for dim in message.shape.dim]),
            message.shard_id,
            message.offset,
            message.size,
            checksum.unmask(message.crc32c),
            tuple(
                [
                    TensorSlice(
                        tuple([(e.start, e.length if e.HasField("has_length") else None) for e in recorded.extent])
                    )
                    for recorded in message.slices
                ]
            ),
        )


@dataclass(frozen=True, slots=True)
class Piece:
    """Where one box of a tensor lies; `key` is the one it has in the index, `crc32c` the plain checksum."""

    box: Box
    shard_id: int
    offset: int
    size: int
    crc32c: int
    key: bytes


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as a checkpoint holds it: one piece, or its slices in the order in which they are listed.

    Pieces do not overlap and lie inside the shape, but may leave gaps.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]
    is_sliced: bool


def _parse(data: bytes) -> BundleEntryProto:
    message = BundleEntryProto()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise CorruptionError("entry cannot be parsed") from error
    if message.shape.unknown_rank:
        raise CorruptionError("shape has no known rank")
    return message


@lru_cache(maxsize=1024)
def _form(dtype_number: int, shape: bytes) -> tuple[DType, Box, int | None]:
    """Return what tensors of one dtype and one encoded shape have in common; the last is their size, if it is fixed."""
    dtype = dtypes.by_number(dtype_number)
    message = TensorShapeProto()
    message.ParseFromString(shape)
    sizes = tuple([dim.size for dim in message.dim])
    tensors.check_shape(sizes)
    return dtype, Box.whole(sizes), tensors.expected_size(dtype, sizes) if dtype.array is not None else None


def form_of(head: bytes) -> tuple[DType, Box, int | None]:
    """Return dtype, shape as a box, and size in bytes if that is fixed, of entries that begin with `head`.

    Raises:
        CorruptionError: there can be no such tensor.
    """
    message = _parse(head)
    return _form(message.dtype, message.shape.SerializeToString())


def _header(num_shards: int) -> bytes:
    if not 0 < num_shards <= _MAX_INT32:
        raise InvalidRequestError("shard count out of range", expected=f"1 to {_MAX_INT32}", actual=num_shards)
    message = BundleHeaderProto(num_shards=num_shards)
    message.version.producer = WRITER_VERSION
    return message.SerializeToString(deterministic=True)


def encode_index(num_shards: int, items: Iterable[tuple[bytes, Entry]]) -> bytes:
    """Encode an index of entries in any order: the same bytes that TensorFlow writes for them.

    Raises:
        InvalidRequestError: if a key is there twice or empty.
    """
    return encode_entries(num_shards, sorted((key, entry.encode()) for key, entry in items))


def encode_entries(num_shards: int, items: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Encode an index of entries that are bytes already and ascend by key, as `columns` makes them by the million.

    Raises:
        InvalidRequestError: if a key is out of order, there twice, or empty.
    """
    return table.encode_table([(HEADER_KEY, _header(num_shards)), *items])


class Index:
    """An index that has been checked as far as that is possible without decoding every entry.

    Entries are decoded and checked when asked for, so that one that is wrong does not touch the others.
    """

    def __init__(self, entries: table.Table, header: BundleHeaderProto, key: str) -> None:
        self.key = key
        self.num_shards: int = header.num_shards
        self.big_endian: bool = header.endianness == BundleHeaderProto.BIG
        self._table = entries
        self._names: tuple[str, ...] | None = None

    @classmethod
    def decode(cls, data: bytes, key: str = "") -> Self:
        """Read an index and check its blocks, keys and header; `key` is the file's name, for errors.

        Keeps a reference to `data`; takes time linear in it.

        Raises:
            CorruptionError: with the file's key, the offset and the reason.
        """
        try:
            entries = table.Table.decode(data)
            return cls(entries, _check_header(entries), key)
        except CorruptionError as error:
            error.key = key or None
            raise

    def names(self) -> list[str]:
        """Return the tensors' names in the order of their keys; listed slices are hidden, as TensorFlow hides them."""
        if self._names is None:
            self._names = tuple(map(tensor_name, self._tensor_keys()))
        return list(self._names)

    def __len__(self) -> int:
        return len(self.names())

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str) or not name:
            return False
        try:
            key = tensor_key(name)
        except InvalidRequestError:
            return False
        if self._table.get(key) is None:
            return False
        return not key.startswith(b"\0") or name in self.names()

    def raw(self, key: bytes) -> bytes | None:
        """Return the undecoded entry under a key, slices and header included, or None."""
        return self._table.get(key)

    def raw_items(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield every key and undecoded entry in order, header first and slices included."""
        return self._table.items()

    def entry(self, key: bytes) -> Entry:
        """Return the decoded but unchecked entry under a key.

        Raises:
            NotFoundError: if there is none.
            CorruptionError: if it is not an entry.
        """
        value = self._table.get(key) if key else None
        if value is None:
            raise NotFoundError(f"Key {tensor_name(key)} not found in checkpoint")
        try:
            return Entry.decode(value)
        except CorruptionError as error:
            raise self._located(error, key) from error.__cause__

    def tensor(self, name: str) -> StoredTensor:
        """Return where a tensor lies, after checking all that can be without the data files.

        The key of a slice, which `names` hides, is found too: it gives the slice as a tensor of its own.

        Raises:
            NotFoundError: ``Key <name> not found in checkpoint``.
            CorruptionError: if its entry, or that of one of its slices, cannot be right.
        """
        try:
            key = tensor_key(name)
        except InvalidRequestError:
            key = HEADER_KEY
        value = self._table.get(key) if key != HEADER_KEY else None
        if value is None:
            raise NotFoundError(f"Key {name} not found in checkpoint")
        try:
            message = _parse(value)
            if message.slices:
                return self._checked(name, key, Entry.of(message))
            return self._undivided(name, key, message)
        except CkptdError as error:
            raise self._located(error, key) from error.__cause__ or error

    def _undivided(self, name: str, key: bytes, message: BundleEntryProto) -> StoredTensor:
        """Check a tensor that is stored in one piece, as nearly all are: there may be a million of them."""
        dtype, box, wanted = _form(message.dtype, message.shape.SerializeToString())
        if message.size != wanted:  # or the dtype's size varies, or is unknown
            tensors.check_stored(dtype, box.shape, message.size)
        crc = checksum.unmask(message.crc32c)
        piece = self._placed(Piece(box, message.shard_id, message.offset, message.size, crc, key))
        return StoredTensor(name, dtype, box.shape, (piece,), is_sliced=False)

    def _located(self, error: CkptdError, key: bytes) -> CorruptionError:
        """Return the error with the place of the entry that caused it.

        Slices that do not fit their tensor are a caller's mistake elsewhere; here the file is wrong.
        """
        located = CorruptionError(
            error.reason,
            key=self.key or None,
            offset=self._table.offset_of(key),
            expected=error.expected,
            actual=error.actual,
        )
        located.add_note(f"in the entry for {tensor_name(key)!r}")
        return located

    def _checked(self, name: str, key: bytes, entry: Entry) -> StoredTensor:
        dtype = dtypes.by_number(entry.dtype)
        if dtype.array is None:
            raise CorruptionError(f"dtype {dtype.name} cannot be stored")
        tensors.check_shape(entry.shape)
        pieces: dict[bytes, Piece] = {}
        prefix = slices.key_prefix(name, len(entry.shape))
        for recorded in entry.slices:
            box = recorded.resolve(entry.shape)
            slice_key = prefix + recorded.key_suffix()
            if slice_key in pieces:
                raise CorruptionError(f"slice {recorded} is listed twice")
            value = self._table.get(slice_key)
            if value is None:
                raise CorruptionError(f"slice {recorded} is listed but has no entry")
            part = Entry.decode(value)
            if part.dtype != entry.dtype:
                raise CorruptionError(f"slice {recorded} has another dtype", expected=entry.dtype, actual=part.dtype)
            pieces[slice_key] = self._piece(slice_key, part, dtype, box)
        boxes = [piece.box for piece in pieces.values()]
        overlap = tiling.find_overlap(boxes)
        if overlap is not None:
            one, other = (entry.slices[number] for number in sorted(overlap))
            raise CorruptionError(f"Overlapping slices: existing slice = {one}, new slice = {other}")
        return StoredTensor(name, dtype, entry.shape, tuple(pieces.values()), is_sliced=True)

    def _piece(self, key: bytes, entry: Entry, dtype: DType, box: Box) -> Piece:
        if entry.shape != box.shape:
            raise CorruptionError(f"entry of slice {box} has another shape", expected=box.shape, actual=entry.shape)
        tensors.check_stored(dtype, entry.shape, entry.size)
        return self._placed(Piece(box, entry.shard_id, entry.offset, entry.size, entry.crc32c, key))

    def _placed(self, piece: Piece) -> Piece:
        if not 0 <= piece.shard_id < self.num_shards:
            raise CorruptionError("shard id out of range", expected=f"below {self.num_shards}", actual=piece.shard_id)
        if piece.offset < 0 or piece.size < 0 or piece.offset + piece.size > MAX_INT64:
            raise CorruptionError(f"offset {piece.offset} or size {piece.size} out of range")
        return piece

    def _tensor_keys(self) -> Iterator[bytes]:
        """Yield the keys that are no listed slices, in order.

        All slice keys start with 00 and those of one tensor lie together, so a list is read once per tensor and not
        at all in an index without slices.
        """
        prefix = b""
        listed: frozenset[bytes] = frozenset()
        for key in self._table:
            if not key.startswith(b"\0"):
                if key:
                    yield key
                continue
            if not prefix or not key.startswith(prefix):
                prefix, listed = self._listed_slices(key)
            if key not in listed:
                yield key

    def _listed_slices(self, key: bytes) -> tuple[bytes, frozenset[bytes]]:
        """Return the keys of all slices of the tensor that `key` may be a slice of, and what they begin with."""
        try:
            name, found = slices.parse_key(key)
            value = self._table.get(tensor_key(name))
            if value is None:
                return b"", frozenset()
            listed = slice_columns(value, len(found.extents))
            if listed is not None:
                return slices.name_prefix(name), frozenset(columns.slice_keys(name, *listed))
            return slices.name_prefix(name), frozenset(item.key(name) for item in Entry.decode(value).slices)
        except CorruptionError:
            return b"", frozenset()


def _check_header(entries: table.Table) -> BundleHeaderProto:
    """Return the header after checking shard count, byte order and versions."""
    value = entries.get(HEADER_KEY)
    if value is None:
        raise CorruptionError("first key is not the header's", offset=0)
    header = BundleHeaderProto()
    try:
        header.ParseFromString(value)
    except DecodeError as error:
        raise CorruptionError("header cannot be parsed", offset=0) from error
    if header.num_shards < 1:
        raise CorruptionError("header names no shards", offset=0, expected="at least 1", actual=header.num_shards)
    if header.endianness not in (BundleHeaderProto.LITTLE, BundleHeaderProto.BIG):
        raise CorruptionError(
            "header names an unknown byte order", offset=0, expected="0 or 1", actual=header.endianness
        )
    if header.version.min_consumer > READER_VERSION:
        raise CorruptionError(
            f"Checkpoint min consumer version {header.version.min_consumer} above current version {READER_VERSION}",
            offset=0,
        )
    if READER_VERSION in header.version.bad_consumers:
        raise CorruptionError(f"Checkpoint disallows consumer version {READER_VERSION}", offset=0)
    return header
