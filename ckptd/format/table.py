"""Encode and decode a whole LevelDB table: sorted keys and values, the content of an index file.

Layout::

    data block … | metaindex block (always empty) | index block | footer

A block is followed by its trailer ``[type: 1 byte][masked crc32c of block and type: fixed32]``; the index block
holds one entry per data block, a separator key and the block's handle; the footer is the last 48 bytes::

    metaindex handle | index handle | zeros up to 40 bytes | magic: fixed64

Source: leveldb ``doc/table_format.md``; TensorFlow keeps the layout, with blocks of 256 KiB and no filters.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ckptd.errors import CorruptionError, InvalidRequestError
from ckptd.format import block as blocks
from ckptd.format import coding, crc32c, snappy
from ckptd.format.block_columns import Columns, Keys
from ckptd.format.ragged import Ragged

if sys.version_info >= (3, 11):
    from typing import Self
else:
    from typing_extensions import Self

if TYPE_CHECKING:
    from typing_extensions import Buffer

BLOCK_SIZE = 262144
FOOTER_SIZE = 48
TRAILER_SIZE = 5
MAGIC = 0xDB4775248B80FB57

_PLAIN, _SNAPPY = 0, 1
_HANDLES_SIZE = 40
# Keys share at most 15 of 16 times what a writer with the usual restart interval stores, so the keys of a sound file
# take at most 16 times its size; far more is an attempt to fill our memory.
_MAX_KEY_GROWTH = 16
_MIN_KEY_BUDGET = 48 << 20
_CACHED_BLOCKS = 4


@dataclass(frozen=True, slots=True)
class BlockHandle:
    """Where one block is in its table.

    Layout: ``[offset: varint64][size: varint64]``; `size` leaves out the 5-byte trailer.
    """

    offset: int
    size: int

    def encode(self) -> bytes:
        """Return the handle's bytes."""
        return coding.encode_varint(self.offset) + coding.encode_varint(self.size)

    @classmethod
    def decode(cls, data: bytes | memoryview, at: int = 0, end: int | None = None) -> tuple[Self, int]:
        """Read a handle at byte `at`; return it and the position after it."""
        offset, at = coding.decode_varint64(data, at, end)
        size, at = coding.decode_varint64(data, at, end)
        return cls(offset, size), at


@dataclass(frozen=True, slots=True)
class Footer:
    """The last 48 bytes of a table."""

    metaindex: BlockHandle
    index: BlockHandle

    def encode(self) -> bytes:
        """Return the footer's bytes."""
        handles = self.metaindex.encode() + self.index.encode()
        return handles.ljust(_HANDLES_SIZE, b"\0") + coding.encode_fixed64(MAGIC)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read the footer of a whole table; offsets in errors count from the table's start."""
        start = len(data) - FOOTER_SIZE
        if start < 0:
            raise CorruptionError(
                "file is too short to be a table", offset=0, expected=f"at least {FOOTER_SIZE} bytes", actual=len(data)
            )
        if coding.decode_fixed64(data, start + _HANDLES_SIZE) != MAGIC:
            raise CorruptionError("not a table (bad magic number)", offset=start + _HANDLES_SIZE)
        metaindex, at = BlockHandle.decode(data, start, start + _HANDLES_SIZE)
        index, _ = BlockHandle.decode(data, at, start + _HANDLES_SIZE)
        return cls(metaindex, index)


def shortest_separator(last: bytes, following: bytes) -> bytes:
    """Return a short key that is at least `last` and below `following`, exactly as LevelDB chooses it."""
    at = blocks.shared_length(last, following)
    if at == min(len(last), len(following)) or last[at] == 0xFF or last[at] + 1 >= following[at]:
        return last
    return last[:at] + bytes((last[at] + 1,))


def short_successor(key: bytes) -> bytes:
    """Return a short key that is at least `key`, exactly as LevelDB chooses it."""
    for at, byte in enumerate(key):
        if byte != 0xFF:
            return key[:at] + bytes((byte + 1,))
    return key


@dataclass(frozen=True, slots=True)
class EncodedTable:
    """A whole table, and where in it things are.

    Attributes:
        data: the file.
        blocks: of values, in their order.
        value_ends: where in the file each value ends, in the order of the keys.
    """

    data: bytes
    blocks: Sequence[BlockHandle]
    value_ends: NDArray[np.int64]

    def changed(self, change: Callable[[NDArray[np.uint8]], None]) -> bytes:
        """Return the table with other values, each as long as it was: `change` puts them into the file's bytes."""
        data = bytearray(self.data)
        change(np.frombuffer(data, np.uint8))
        view = memoryview(data)
        for handle in self.blocks:
            end = handle.offset + handle.size
            data[end : end + TRAILER_SIZE] = _trailer(view[handle.offset : end])
        return bytes(data)


def encode_table(items: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Encode sorted keys and their values as TensorFlow's writer would, byte for byte.

    Raises:
        InvalidRequestError: if a key does not follow the one before.
    """
    keys, values = [key for key, _ in items], [value for _, value in items]
    return encode_columns([(Keys.of(keys), Ragged.of(values))]).data


def encode_columns(batches: Iterable[tuple[Keys, Ragged]]) -> EncodedTable:
    """Do as `encode_table`, of keys and values that are columns and come a batch at a time; return where things are."""
    table = _Writer()
    for keys, values in batches:
        table.add(keys, values)
    return table.finish()


def _trailer(block: Buffer) -> bytes:
    """Return what follows a block that is stored as it is."""
    kind = bytes((_PLAIN,))
    return kind + coding.encode_fixed32(crc32c.mask(crc32c.extend(crc32c.crc32c(block), kind)))


class _Writer:
    """A table under way. A large one is in memory once: `getvalue` does not copy."""

    def __init__(self) -> None:
        self._file = BytesIO()
        self._position = 0
        self._separators: list[tuple[bytes, bytes]] = []
        self._handles: list[BlockHandle] = []
        self._ends = [np.zeros(0, np.int64)]
        self._keys, self._values = Keys.of([]), Ragged.of([])  # those of a block that may go on

    def add(self, keys: Keys, values: Ragged) -> None:
        """Add entries whose keys follow those before."""
        self._encode(Keys.joined([self._keys, keys]), Ragged.joined([self._values, values]), is_last=False)

    def finish(self) -> EncodedTable:
        """Return the whole table."""
        self._encode(self._keys, self._values, is_last=True)
        metaindex = self._append(blocks.EMPTY_BLOCK)
        index = self._append(blocks.encode_block(self._separators, 1))
        self._file.write(Footer(metaindex, index).encode())
        return EncodedTable(self._file.getvalue(), self._handles, np.concatenate(self._ends))

    def _encode(self, keys: Keys, values: Ragged, *, is_last: bool) -> None:
        try:
            columns = Columns(keys, values)
        except ValueError as error:
            raise InvalidRequestError(f"key {keys.row(error.args[0])!r} is out of order or there twice") from None
        # A huge entry closes the block before it.
        huge = np.flatnonzero(columns.key_sizes + columns.value_sizes >= 2 * BLOCK_SIZE)
        start = 0
        while start < len(keys):
            stop = columns.block_end(start, BLOCK_SIZE)
            after = huge[np.searchsorted(huge, start, "right") :]
            if len(after):
                stop = min(stop, int(after[0]))
            if stop == len(keys) and not is_last:
                break
            block, value_ends = columns.encode(start, stop)
            self._ends.append(value_ends + self._position)
            handle = self._append(block)
            self._handles.append(handle)
            last = keys.row(stop - 1)
            separator = shortest_separator(last, keys.row(stop)) if stop < len(keys) else short_successor(last)
            self._separators.append((separator, handle.encode()))
            start = stop
        self._keys, self._values = keys.since(start), values.take(slice(start, None)).compact()

    def _append(self, block: bytes) -> BlockHandle:
        """Add a block and its trailer; return where it is."""
        handle = BlockHandle(self._position, len(block))
        self._file.write(block)
        self._file.write(_trailer(block))
        self._position += len(block) + TRAILER_SIZE
        return handle


class Table:
    """A table that has been checked from end to end.

    Holds the file's bytes and little more: keys and values are decoded again when they are needed, a block at a time,
    because a million of them as Python objects would take several times the file. Safe to share between threads.
    """

    def __init__(
        self, data: bytes, handles: list[BlockHandle], last_keys: list[bytes], count: int, roomy: bool
    ) -> None:
        self._data = data
        self._handles = handles
        self._last_keys = last_keys
        self._count = count
        self._cache: Callable[[int], dict[bytes, bytes]] | None = None
        if roomy:

            def load(number: int) -> dict[bytes, bytes]:
                block = _read_block(data, handles[number])
                return {key: block[start:end] for key, start, end in blocks.walk(block)}

            self._cache = lru_cache(maxsize=_CACHED_BLOCKS)(load)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Check every block of a table.

        Raises:
            CorruptionError: with the offset in the file, or inside a Snappy block's contents, at which it is wrong.
        """
        footer = Footer.decode(data)
        # Its own trailer is all that ties a block to its place: none may reach into the footer.
        index_block = _read_block(data, footer.index)
        with _at_block(footer.index):
            blocks.check(index_block, None, _MIN_KEY_BUDGET + _MAX_KEY_GROWTH * len(data))
        budget = _MIN_KEY_BUDGET + _MAX_KEY_GROWTH * len(data)
        handles: list[BlockHandle] = []
        last_keys: list[bytes] = []
        count = key_bytes = position = 0
        previous: bytes | None = None
        separator: bytes | None = None
        for next_separator, start, end in blocks.walk(index_block):
            with _at_block(footer.index):
                handle, _ = BlockHandle.decode(index_block, start, end)
            if handle.offset < position:
                raise CorruptionError("blocks overlap or are out of order", offset=handle.offset)
            block = _read_block(data, handle)
            with _at_block(handle):
                checked = blocks.check(block, previous, budget - key_bytes)
            position = handle.offset + handle.size + TRAILER_SIZE
            if checked is None:
                continue
            first, last, entries, size = checked
            if last > next_separator or (separator is not None and first <= separator):
                raise CorruptionError("keys of a block are not within its separators", offset=handle.offset)
            previous, separator = last, next_separator
            handles.append(handle)
            last_keys.append(last)
            count += entries
            key_bytes += size
        return cls(data, handles, last_keys, count, key_bytes <= 2 * len(data) + (16 << 20))

    def __len__(self) -> int:
        return self._count

    def get(self, key: bytes) -> bytes | None:
        """Return the value under a key, or None."""
        number = bisect_left(self._last_keys, key)
        if number == len(self._last_keys):
            return None
        if self._cache is not None:
            return self._cache(number).get(key)
        block = _read_block(self._data, self._handles[number])
        return next((block[start:end] for found, start, end in blocks.walk(block) if found == key), None)

    def offset_of(self, key: bytes) -> int | None:
        """Return where in the file the value under a key is, or the compressed block that holds it; for errors."""
        number = bisect_left(self._last_keys, key)
        if number == len(self._last_keys):
            return None
        handle = self._handles[number]
        compressed = self._data[handle.offset + handle.size] != _PLAIN
        for found, start, _ in blocks.walk(_read_block(self._data, handle)):
            if found == key:
                return handle.offset + (0 if compressed else start)
        return None

    def __iter__(self) -> Iterator[bytes]:
        for handle in self._handles:
            for key, _, _ in blocks.walk(_read_block(self._data, handle)):
                yield key

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield all keys and values in order."""
        for handle in self._handles:
            block = _read_block(self._data, handle)
            for key, start, end in blocks.walk(block):
                yield key, block[start:end]


class _at_block:  # noqa: N801  (reads as a phrase: with _at_block(handle))
    """Turns offsets inside a block into offsets in the file; those of the errors raised within."""

    def __init__(self, handle: BlockHandle) -> None:
        self._base = handle.offset

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, CorruptionError):
            error.offset = self._base + (error.offset or 0)


def _read_block(data: bytes, handle: BlockHandle) -> bytes:
    """Return a block's contents after checking its place, type and checksum."""
    end = handle.offset + handle.size
    if end + TRAILER_SIZE > len(data) - FOOTER_SIZE:
        raise CorruptionError(f"block of {handle.size} bytes reaches outside the file", offset=handle.offset)
    stored = crc32c.unmask(coding.decode_fixed32(data, end + 1))
    actual = crc32c.crc32c(memoryview(data)[handle.offset : end + 1])
    if stored != actual:
        raise CorruptionError("block checksum does not match", offset=handle.offset, expected=stored, actual=actual)
    contents = data[handle.offset : end]
    if data[end] == _PLAIN:
        return contents
    if data[end] == _SNAPPY:
        with _at_block(handle):
            return snappy.decompress(contents)
    raise CorruptionError("block type is unknown", offset=end, expected="0 or 1", actual=data[end])
