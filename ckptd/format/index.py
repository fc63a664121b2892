"""Encode and decode a whole ``.index``: header, entries and slices.

An index is a table. The empty key holds the header; a tensor's name holds its entry; a tensor stored in slices has a
full entry that lists them and one entry per slice under an encoded key. Nothing marks a key as a slice's: it is
one because a full entry lists it.
Source: TensorFlow ``tensorflow/core/protobuf/tensor_bundle.proto``, ``tensorflow/core/util/tensor_bundle/``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from google.protobuf.message import DecodeError

from ckptd.errors import CkptdError, CorruptionError, InvalidRequestError, NotFoundError
from ckptd.format import columns, slices, table
from ckptd.format.block_columns import Keys
from ckptd.format.bundle_pb2 import BundleHeaderProto
from ckptd.format.entry import Entry
from ckptd.format.foreign_files import HEAD_BYTES, hint
from ckptd.format.names import tensor_key, tensor_name
from ckptd.format.ragged import Ragged
from ckptd.format.slice_list import slice_columns
from ckptd.format.slices import Box
from ckptd.format.stored import StoredTensor, stored_tensor

if sys.version_info >= (3, 11):
    from typing import Self
else:
    from typing_extensions import Self

READER_VERSION = 1
WRITER_VERSION = 1
HEADER_KEY = b""
_MAX_INT32 = (1 << 31) - 1


def _header(num_shards: int) -> bytes:
    if not 0 < num_shards <= _MAX_INT32:
        raise InvalidRequestError("shard count out of range", expected=f"1 to {_MAX_INT32}", actual=num_shards)
    message = BundleHeaderProto(num_shards=num_shards)
    message.version.producer = WRITER_VERSION
    return message.SerializeToString(deterministic=True)


def encode_index(num_shards: int, items: Iterable[tuple[bytes, Entry]]) -> bytes:
    """Encode an index of entries in any order: the same bytes that TensorFlow writes for them.

    Raises:
        InvalidRequestError: if a key occurs twice or is empty.
    """
    return encode_entries(num_shards, sorted((key, entry.encode()) for key, entry in items))


def encode_columns(num_shards: int, batches: Iterable[tuple[Keys, Ragged]]) -> table.EncodedTable:
    """Encode an index of entries that are columns, as `columns` makes them by the million, and return where things are.

    They come a batch at a time, so that memory holds little beside the index. The header is the first value.

    Raises:
        InvalidRequestError: if a key is out of order, occurs twice, or is empty.
    """
    header = Keys.of([HEADER_KEY]), Ragged.of([_header(num_shards)])
    return table.encode_columns(chain([header], batches))


def encode_entries(num_shards: int, items: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Encode an index of entries that are bytes already and ascend by key.

    Raises:
        InvalidRequestError: if a key is out of order, occurs twice, or is empty.
    """
    return table.encode_table([(HEADER_KEY, _header(num_shards)), *items])


class Index:
    """An index that has been checked as far as that is possible without decoding every entry.

    Entries are decoded and checked when they are requested, so that one that is wrong does not touch the others.
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
            error.reason += hint(data[:HEAD_BYTES])
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

    def tensor(self, name: str, box: Box | None = None) -> StoredTensor:
        """Return where a tensor is, after checking all that can be without the data files.

        With `box`, which need not fit, only the slices that have some of it are sure to be found. The key of a slice,
        which `names` hides, is found too: it gives the slice as a tensor of its own.

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
            return stored_tensor(self._table, self.num_shards, name, key, value, box)
        except CkptdError as error:
            raise self._located(error, key) from error.__cause__ or error

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

    def _tensor_keys(self) -> Iterator[bytes]:
        """Yield the keys that are no listed slices, in order.

        All slice keys start with 00 and those of one tensor are together, so a list is read once per tensor and not
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
