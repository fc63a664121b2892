"""Entries read many at once: what comes out is what the plain decoder says, or nothing."""

from __future__ import annotations

import numpy as np
import pytest

from ckptd.errors import CkptdError
from ckptd.format import crc32c
from ckptd.format.entry import NO_CRC32C, Entry
from ckptd.format.entry_columns import entry_columns
from ckptd.format.index import Index, encode_entries
from ckptd.format.plain import plain_tensors
from ckptd.format.slices import TensorSlice
from tests import seams

FLOAT, STRING = 1, 7
TOP = (1 << 63) - 1


def entries() -> list[Entry]:
    """Return entries of all sizes of numbers."""
    random = np.random.default_rng(0)
    numbers = [0, 1, 127, 128, 1 << 20, 1 << 34, TOP]
    return [
        Entry(
            dtype=int(random.choice([FLOAT, 3, 14, 200])),
            shape=tuple(random.choice(numbers, rank).tolist()),
            shard_id=int(random.choice([0, 1, 300, (1 << 31) - 1])),
            offset=int(random.choice(numbers)),
            size=int(random.choice(numbers)),
            crc32c=int(random.choice([0, 1, NO_CRC32C, 0xFFFFFFFF])),
        )
        for rank in (0, 1, 2, 5)
        for _ in range(50)
    ]


def test_columns_hold_what_the_plain_decoder_reads() -> None:
    written = entries()
    found = entry_columns([entry.encode() for entry in written])
    assert found.is_usual.all()
    heads = [Entry.decode(found.heads[number]) for number in found.head.tolist()]
    assert [(head.dtype, head.shape) for head in heads] == [(entry.dtype, entry.shape) for entry in written]
    columns = zip(
        found.shard_id.tolist(), found.offset.tolist(), found.size.tolist(), found.crc32c.tolist(), strict=True
    )
    assert list(columns) == [(entry.shard_id, entry.offset, entry.size, entry.crc32c) for entry in written]


def test_no_entries_are_no_rows() -> None:
    assert len(entry_columns([]).is_usual) == 0
    assert entry_columns([b"", b""]).is_usual.tolist() == [False, False]


def test_what_lists_slices_is_left_to_the_plain_decoder() -> None:
    sliced = Entry(FLOAT, (3,), slices=(TensorSlice.parse("1,2"),)).encode()
    plain = Entry(FLOAT, (3,), 0, 300, 12, 7).encode()
    assert entry_columns([sliced, plain, sliced]).is_usual.tolist() == [False, True, False]


def test_no_cut_or_flipped_byte_gives_other_columns_than_the_plain_decoder() -> None:
    usual = Entry(FLOAT, (3, 900), 2, 300, 10_800, 77).encode()
    changed = [usual[:size] for size in range(len(usual))]
    changed += [usual + extra for extra in (b"\0", b"\x35\1\2\3\4", b"\x7a\0")]
    for at in range(len(usual)):
        for bit in range(8):
            value = bytearray(usual)
            value[at] ^= 1 << bit
            changed.append(bytes(value))
    changed.append(usual.replace(b"\x20\xac\x02", b"\x20" + b"\xac" + b"\x80" * 9 + b"\x02"))
    found = entry_columns(changed)
    assert 60 < found.is_usual.sum() < len(changed)
    for number in np.flatnonzero(found.is_usual).tolist():
        try:
            read = Entry.decode(changed[number])
            head = Entry.decode(found.heads[found.head[number]])
        except CkptdError:  # its shape: `form_of` refuses that
            continue
        assert (head.dtype, head.shape) == (read.dtype, read.shape)
        assert not read.slices
        assert (read.shard_id, read.offset) == (found.shard_id[number], found.offset[number])
        assert (read.size, read.crc32c) == (found.size[number], found.crc32c[number])


def index_of(items: dict[str, bytes]) -> Index:
    return Index.decode(encode_entries(2, sorted((name.encode(), value) for name, value in items.items())))


def test_plain_tensors_are_those_that_the_index_finds_whole() -> None:
    items = {f"t{number:03}": Entry(FLOAT, (number,), number % 2, number, 4 * number, number) for number in range(100)}
    odd = {
        "another shard": Entry(FLOAT, (3,), 2, 0, 12),
        "another size": Entry(FLOAT, (3,), 0, 0, 13),
        "beyond": Entry(FLOAT, (3,), 0, TOP - 11, 12),
        "dtype": Entry(99, (3,), 0, 0, 12),
        "strings": Entry(STRING, (3,), 0, 0, 12),
        "shape": Entry(FLOAT, (1 << 40, 1 << 40), 0, 0, 12),
    }
    index = index_of({name: entry.encode() for name, entry in {**items, **odd}.items()} | {"damaged": b"\x08\x01\x12"})
    names = [*odd, *reversed(items), "missing", "", "damaged", "t007"]
    found = plain_tensors(index, names)
    assert [names[number] for number in found.requested] == [*reversed(items), "t007"]
    for row, number in enumerate(found.requested.tolist()):
        tensor = index.tensor(names[number])
        form = found.forms[found.form[row]]
        assert (form.dtype, form.shape) == (tensor.dtype, tensor.shape)
        (piece,) = tensor.pieces
        assert (piece.shard_id, piece.offset) == (found.shard_id[row], found.offset[row])
        assert (piece.size, piece.crc32c) == (found.size[row], found.crc32c[row])


@pytest.mark.parametrize("chunk_bytes", [4, 1 << 30])
def test_the_checksums_of_many_are_those_of_each(monkeypatch: pytest.MonkeyPatch, chunk_bytes: int) -> None:
    buffers = [b"", b"a", b"123456789", bytes(1000)]
    wanted = [crc32c.crc32c(data) for data in buffers]
    seams.CRC_CHUNK_BYTES.put(monkeypatch, chunk_bytes)
    assert crc32c.each(map(memoryview, buffers)) == wanted
