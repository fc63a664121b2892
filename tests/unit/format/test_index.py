from __future__ import annotations

import time

import numpy as np
import pytest

from ckptd.errors import CorruptionError, InvalidRequestError, NotFoundError
from ckptd.format import columns, table
from ckptd.format.bundle_pb2 import BundleEntryProto, BundleHeaderProto
from ckptd.format.entry import NO_CRC32C, Entry
from ckptd.format.index import Index, encode_entries, encode_index
from ckptd.format.slices import Box, TensorSlice

FLOAT, STRING, RESOURCE = 1, 7, 20

ENTRIES = [
    (Entry(1, (2, 3), 0, 0, 24, NO_CRC32C), "0801 1208 1202 0802 1202 0803 2818"),
    (Entry(1, (), 2, 300, 4, 0), "0801 1200 1802 20ac02 2804 35d8ea82a2"),
    (Entry(7, (0,), 0, 0, 0, NO_CRC32C), "0807 1202 1200"),
    (
        Entry(1, (3, 2), slices=(TensorSlice.parse("0,1:0,2"), TensorSlice.parse("1,2:-"))),
        "0801 1208 1202 0803 1202 0802 3a08 0a02 1001 0a02 1002 3a08 0a04 0801 1002 0a00",
    ),
]


@pytest.mark.parametrize(("entry", "data"), ENTRIES)
def test_an_entry_and_its_bytes_are_one_thing(entry: Entry, data: str) -> None:
    assert entry.encode() == bytes.fromhex(data)
    assert Entry.decode(bytes.fromhex(data)) == entry


def test_the_worked_example_of_one_variable() -> None:
    data = bytes.fromhex(
        "00000608011a020801000113760801120812020802120208032818 3598e8dd3f0000000001000000 0085b928 1f"
        "000000000100000000c0f2a1b0 00010277 0028 000000000100000000aba9c0b8 2d083a0e" + "00" * 36 + "57fb808b247547db"
    )
    masked = int.from_bytes(bytes.fromhex("98e8dd3f"), "little")
    from ckptd.format.crc32c import unmask

    assert encode_index(1, [(b"v", Entry(1, (2, 3), 0, 0, 24, unmask(masked)))]) == data
    index = Index.decode(data, "m.index")
    assert index.names() == ["v"]
    assert (index.num_shards, index.big_endian, len(index)) == (1, False, 1)
    stored = index.tensor("v")
    assert (stored.dtype.name, stored.shape, stored.is_sliced) == ("float32", (2, 3), False)
    assert stored.pieces[0].crc32c == unmask(masked)


def sliced(name: bytes = b"w", texts: tuple[str, ...] = ("0,1:0,2", "1,2:-")) -> dict[bytes, Entry]:
    """Entries of a [3, 2] tensor in slices."""
    listed = tuple(map(TensorSlice.parse, texts))
    items = {name: Entry(FLOAT, (3, 2), slices=listed)}
    for number, item in enumerate(listed):
        shape = item.resolve((3, 2)).shape
        items[item.key(name.decode())] = Entry(FLOAT, shape, 0, 100 * number, 4 * shape[0] * shape[1], number)
    return items


def index_of(items: dict[bytes, Entry], num_shards: int = 1) -> Index:
    return Index.decode(encode_index(num_shards, items.items()), "m.index")


def test_slices_are_hidden_and_found_through_their_tensor_or_their_key() -> None:
    index = index_of({**sliced(), b"a": Entry(FLOAT, (), 0, 8, 4), b"\0odd": Entry(FLOAT, (), 0, 8, 4)})
    assert index.names() == ["\0odd", "a", "w"]
    assert list(index) == index.names()
    stored = index.tensor("w")
    assert stored.is_sliced
    assert [(piece.box, piece.offset) for piece in stored.pieces] == [
        (Box((0, 0), (1, 2)), 0),
        (Box((1, 0), (2, 2)), 100),
    ]
    for piece in stored.pieces:
        hidden = piece.key.decode("utf-8", "surrogateescape")
        assert hidden not in index
        assert index.raw(piece.key) is not None
        alone = index.tensor(hidden)
        assert not alone.is_sliced
        assert alone.shape == piece.box.shape
        assert alone.pieces[0].offset == piece.offset
    for absent in ("", "W", "\0", "\ud800"):
        with pytest.raises(NotFoundError):
            index.tensor(absent)
    assert "\0odd" in index
    assert 7 not in index


def test_a_slice_that_nobody_lists_shows_under_its_raw_key() -> None:
    items = sliced()
    key = TensorSlice.parse("0,2:0,1").key("w")
    items[key] = Entry(FLOAT, (2, 1), 0, 0, 8)
    lost = TensorSlice.parse("0,1").key("gone")
    items[lost] = Entry(FLOAT, (1,), 0, 0, 4)
    index = index_of(items)
    assert index.names() == sorted(
        ["w", key.decode("utf-8", "surrogateescape"), lost.decode("utf-8", "surrogateescape")]
    )


@pytest.mark.parametrize("name", ["nope", "", "\ud800", "w2"])
def test_an_absent_name_is_not_found_in_tensorflows_words(name: str) -> None:
    with pytest.raises(NotFoundError, match="not found in checkpoint"):
        index_of(sliced()).tensor(name)


def test_an_empty_index_is_readable() -> None:
    index = index_of({}, 5)
    assert (index.names(), len(index), index.num_shards) == ([], 0, 5)


def test_the_order_of_adding_does_not_matter_and_names_are_unique() -> None:
    items = list(sliced().items())
    assert encode_index(1, items) == encode_index(1, reversed(items))
    for bad in ([*items, items[0]], [(b"", items[0][1])]):
        with pytest.raises(InvalidRequestError):
            encode_index(1, bad)
    with pytest.raises(InvalidRequestError, match="out of order"):
        encode_entries(1, [(b"b", b""), (b"a", b"")])
    for count in (0, -1, 1 << 31):
        with pytest.raises(InvalidRequestError, match="shard count"):
            encode_index(count, items)


# ── headers ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def with_header(header: bytes) -> bytes:
    return table.encode_table([(b"", header), (b"v", Entry(FLOAT, (), 0, 0, 4).encode())])


HEADERS = [
    (b"\xff", "cannot be parsed"),
    (b"", "no shards"),
    (BundleHeaderProto(num_shards=-1).SerializeToString(), "no shards"),
    (b"\x08\x01\x10\x02", "byte order"),
    (b"\x08\x01\x1a\x02\x10\x02", "min consumer version 2 above"),
    (b"\x08\x01\x1a\x03\x1a\x01\x01", "disallows consumer version 1"),
]


@pytest.mark.parametrize(("header", "reason"), HEADERS)
def test_a_header_that_we_cannot_honour_is_corrupt(header: bytes, reason: str) -> None:
    with pytest.raises(CorruptionError, match=reason) as caught:
        Index.decode(with_header(header), "m.index")
    assert caught.value.key == "m.index"
    assert caught.value.offset is not None


@pytest.mark.parametrize(
    "header", [b"\x08\x01", b"\x08\x01\x1a\x02\x08\x63", b"\x08\x01\x10\x01", b"\x08\x01\x7a\x01x"]
)
def test_any_producer_unknown_fields_and_a_missing_version_are_fine(header: bytes) -> None:
    index = Index.decode(with_header(header), "m.index")
    assert index.names() == ["v"]
    assert index.big_endian == (header == b"\x08\x01\x10\x01")


def test_an_index_without_header_is_corrupt() -> None:
    for items in ([], [(b"v", b"\x08\x01")]):
        with pytest.raises(CorruptionError, match="header"):
            Index.decode(table.encode_table(items), "m.index")


# ── entries that cannot be right: each fails alone ────────────────────────────────────────────────────────────────────


def entry(**fields: object) -> bytes:
    message = BundleEntryProto(dtype=1, size=4)
    message.shape.SetInParent()
    for name, value in fields.items():
        if name == "dims":
            for size in value:  # type: ignore[attr-defined]
                message.shape.dim.add(size=size)
        else:
            setattr(message, name, value)
    return message.SerializeToString()


BAD_ENTRIES = [
    (b"\xff\xff", "cannot be parsed"),
    (entry(dtype=0), "dtype 0 is invalid"),
    (entry(dtype=99), "dtype 99 is unknown"),
    (entry(dtype=101), "reference"),
    (entry(dtype=RESOURCE), "resource cannot be stored"),
    (b"\x08\x01\x12\x02\x18\x01\x28\x04", "no known rank"),
    (entry(dims=[-1]), "negative dimension"),
    (entry(dims=[1] * 255), "255 dimensions"),
    (entry(dims=[1 << 40, 1 << 40]), "too large"),
    (entry(dims=[2]), "size does not match"),
    (entry(dims=[1 << 41], size=1 << 43, offset=(1 << 63) - 1), "out of range"),
    (entry(dtype=STRING, dims=[1], size=4), "too small"),
    (entry(dtype=STRING, size=-5), "too small"),
    (entry(offset=-4), "out of range"),
    (entry(shard_id=1), "shard id"),
    (entry(shard_id=-1), "shard id"),
]


@pytest.mark.parametrize(("value", "reason"), BAD_ENTRIES)
def test_a_bad_entry_is_corrupt_and_touches_no_other(value: bytes, reason: str) -> None:
    data = encode_entries(1, [(b"bad", value), (b"good", Entry(FLOAT, (), 0, 0, 4).encode())])
    index = Index.decode(data, "m.index")
    assert index.names() == ["bad", "good"]
    assert index.tensor("good").shape == ()
    with pytest.raises(CorruptionError, match=reason) as caught:
        index.tensor("bad")
    assert caught.value.key == "m.index"
    assert caught.value.offset == data.index(value, data.index(b"bad"))
    assert any("bad" in note for note in caught.value.__notes__)


def changed(**changes: object) -> dict[bytes, Entry]:
    """A sliced tensor whose first slice entry differs in these fields."""
    from dataclasses import replace

    items = sliced()
    key = TensorSlice.parse("0,1:0,2").key("w")
    items[key] = replace(items[key], **changes)  # type: ignore[arg-type]
    return items


def listing(*extents: tuple[tuple[int, int | None], ...]) -> dict[bytes, Entry]:
    """A sliced tensor that lists these extents instead."""
    return {**sliced(), b"w": Entry(FLOAT, (3, 2), slices=tuple(map(TensorSlice, extents)))}


A, B = ((0, 1), (0, 2)), ((1, 2), (0, None))
BAD_SLICES = [
    (listing(A, B, ((0, 1),)), "Mismatching ranks"),
    (listing(((-1, 1), (0, 2))), "out of bounds"),
    (listing(((0, 0), (0, 2))), "out of bounds"),
    (listing(((0, -1), (0, 2))), "out of bounds"),
    (listing(((1, None), (0, 2))), "out of bounds"),
    (listing(((2, 2), (0, 2))), "out of bounds"),
    (listing((((1 << 63) - 1, (1 << 63) - 1), (0, 2))), "out of bounds"),
    (listing(A, A), "listed twice"),
    (listing(A, ((2, 1), (0, 2))), "has no entry"),
    (sliced(texts=("0,2:0,2", "1,2:-")), "Overlapping slices: existing slice = 0,2:0,2, new slice = 1,2:-"),
    (changed(dtype=3), "another dtype"),
    (changed(shape=(2, 2)), "another shape"),
    (changed(shape=(1, 1), size=4), "another shape"),
    (changed(size=7), "size does not match"),
    (changed(shard_id=4), "shard id"),
    (changed(offset=-1), "out of range"),
]


@pytest.mark.parametrize(("items", "reason"), BAD_SLICES)
def test_slices_that_cannot_be_right_are_corrupt(items: dict[bytes, Entry], reason: str) -> None:
    index = index_of({**items, b"z": Entry(FLOAT, (), 0, 0, 4)})
    assert index.tensor("z").shape == ()
    with pytest.raises(CorruptionError, match=reason) as caught:
        index.tensor("w")
    assert caught.value.key == "m.index"
    assert caught.value.offset is not None


def test_a_slice_entry_that_cannot_be_parsed_fails_its_tensor_alone() -> None:
    items = sorted((key, item.encode()) for key, item in sliced().items())
    items[0] = (items[0][0], b"\xff")
    index = Index.decode(encode_entries(1, [*items, (b"z", Entry(FLOAT, (), 0, 0, 4).encode())]), "m.index")
    assert index.names() == ["w", "z"]
    with pytest.raises(CorruptionError, match="cannot be parsed"):
        index.tensor("w")


# ── size ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_hundred_thousand_slices_are_encoded_and_listed_quickly() -> None:
    tensors, parts = 100, 1000
    began = time.thread_time()
    items: list[tuple[bytes, bytes]] = []
    full: list[tuple[bytes, bytes]] = []
    numbers = np.arange(parts)
    for number in range(tensors):
        name = f"model/layer_{number:04d}/kernel"
        starts = np.stack((numbers * 512, numbers * 0), axis=1)
        lengths = np.broadcast_to([512, 1024], (parts, 2))
        keys = columns.slice_keys(name, starts, lengths)
        sizes = np.full(parts, 512 * 1024 * 4)
        values = columns.entry_values(
            FLOAT, lengths, numbers % 16, numbers * 2097152, sizes, numbers * 4_000_037
        ).split()
        items += zip(keys, values, strict=True)
        full.append((name.encode(), columns.slice_list_value(FLOAT, (512 * parts, 1024), starts, lengths)))
    data = encode_entries(16, items + full)
    encoded = time.thread_time()
    index = Index.decode(data, "m.index")
    assert index.names() == [name.decode() for name, _ in full]
    listed = time.thread_time()
    assert len(index.tensor("model/layer_0042/kernel").pieces) == parts
    # A tenth of a million: the aims are 0.4 s and 0.2 s; slow machines get ten times that.
    assert encoded - began < 4
    assert listed - encoded < 4
