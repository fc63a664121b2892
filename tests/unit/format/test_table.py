from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from ckptd.errors import CorruptionError, InvalidRequestError
from ckptd.format import block as blocks
from ckptd.format import coding, crc32c
from ckptd.format.block_columns import Keys
from ckptd.format.ragged import Ragged
from ckptd.format.table import (
    BLOCK_SIZE,
    FOOTER_SIZE,
    BlockHandle,
    Footer,
    Table,
    encode_columns,
    encode_table,
    short_successor,
    shortest_separator,
)
from tests import seams

Items = Sequence[tuple[bytes, bytes]]

HANDLES = [(BlockHandle(0, 0), b"\x00\x00"), (BlockHandle(300, 1), b"\xac\x02\x01")]


@pytest.mark.parametrize(("handle", "data"), HANDLES)
def test_a_handle_and_its_bytes_are_one_thing(handle: BlockHandle, data: bytes) -> None:
    assert handle.encode() == data
    assert BlockHandle.decode(data) == (handle, len(data))


def test_a_footer_and_its_bytes_are_one_thing() -> None:
    footer = Footer(BlockHandle(45, 8), BlockHandle(58, 14))
    data = bytes.fromhex("2d083a0e" + "00" * 36 + "57fb808b247547db")
    assert footer.encode() == data
    assert Footer.decode(b"before" + data) == footer


SEPARATORS = [
    (b"a/second", b"b/xx", b"a/second"),
    (b"b/xx", b"d/after", b"c"),
    (b"ab", b"abc", b"ab"),
    (b"abc", b"ax", b"ac"),
    (b"a\xff", b"b", b"a\xff"),
    (b"\xff\x01", b"\xff\x09", b"\xff\x02"),
]


@pytest.mark.parametrize(("last", "following", "separator"), SEPARATORS)
def test_separators_are_shortened_as_leveldb_does(last: bytes, following: bytes, separator: bytes) -> None:
    assert shortest_separator(last, following) == separator
    assert last <= separator < following


@pytest.mark.parametrize(
    ("key", "successor"), [(b"v", b"w"), (b"abc", b"b"), (b"\xffa", b"\xffb"), (b"\xff\xff", b"\xff\xff"), (b"", b"")]
)
def test_the_last_separator_is_a_short_successor(key: bytes, successor: bytes) -> None:
    assert short_successor(key) == successor


@pytest.mark.parametrize(
    ("one", "two", "shared"),
    [(b"", b"", 0), (b"abc", b"abd", 2), (b"abc", b"abc", 3), (b"x", b"y", 0), (b"ab", b"abcd", 2)],
)
def test_shared_length_counts_equal_bytes(one: bytes, two: bytes, shared: int) -> None:
    assert blocks.shared_length(one, two) == shared
    assert blocks.shared_length(two, one) == shared


def plain_table(items: Items, block_size: int = BLOCK_SIZE) -> bytes:
    """Encode a table one entry after the other, by the rules as they are told: what the fast encoder must equal."""
    out = b""
    separators: list[tuple[bytes, bytes]] = []
    current: list[tuple[bytes, bytes]] = []
    closed: list[tuple[list[tuple[bytes, bytes]], BlockHandle]] = []

    def append(block: bytes) -> BlockHandle:
        nonlocal out
        handle = BlockHandle(len(out), len(block))
        out += block + b"\0" + coding.encode_fixed32(crc32c.mask(crc32c.crc32c(block + b"\0")))
        return handle

    def close() -> None:
        nonlocal current
        if current:
            closed.append((current, append(blocks.encode_block(current, 16))))
            current = []

    for number, (key, value) in enumerate(items):
        if number and len(key) + len(value) >= 2 * block_size:
            close()
        current.append((key, value))
        if len(blocks.encode_block(current, 16)) >= block_size:
            close()
    close()
    for number, (entries, handle) in enumerate(closed):
        last = entries[-1][0]
        following = closed[number + 1][0][0][0] if number + 1 < len(closed) else None
        separator = short_successor(last) if following is None else shortest_separator(last, following)
        separators.append((separator, handle.encode()))
    metaindex = append(blocks.EMPTY_BLOCK)
    index = append(blocks.encode_block(separators, 1))
    return out + Footer(metaindex, index).encode()


def many(count: int, seed: int = 0) -> list[tuple[bytes, bytes]]:
    random = np.random.default_rng(seed)
    words = [b"layer", b"w", b"\0", b"\xff\xff", b"kernel_of_some_length", b""]
    keys = {b"/".join([words[i] for i in random.integers(0, len(words), 4)]) + b"%d" % n for n in range(count)}
    return [(key, random.bytes(int(random.integers(0, 200)))) for key in sorted(keys)]


@pytest.mark.parametrize("block_size", [64, 512, 4096])
@pytest.mark.parametrize("count", [0, 1, 2, 15, 16, 17, 33, 400])
def test_the_fast_encoder_equals_the_plain_rules(count: int, block_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seams.TABLE_BLOCK_BYTES.put(monkeypatch, block_size)
    items = many(count)
    data = encode_table(items)
    assert data == plain_table(items, block_size)
    table = Table.decode(data)
    assert list(table.items()) == items
    assert list(table) == [key for key, _ in items]
    assert len(table) == count
    assert all(table.get(key) == value for key, value in items)
    assert table.get(b"no such key") is None
    assert table.get(b"\xff" * 40) is None


@pytest.mark.parametrize("at_once", [1, 7, 100, 399])
def test_entries_that_come_a_batch_at_a_time_make_the_same_table(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seams.TABLE_BLOCK_BYTES.put(monkeypatch, 512)
    items = many(400)
    items[200] = (items[200][0], bytes(2000))  # a huge entry
    batches = [items[at : at + at_once] for at in range(0, len(items), at_once)]
    encoded = encode_columns(
        # Each key is cut in two, as slices of a tensor share its name.
        (Keys([key[:3] for key, _ in some], np.arange(len(some)), Ragged.of([key[3:] for key, _ in some])),
         Ragged.of([value for _, value in some]))
        for some in batches
    )  # fmt: skip
    assert encoded.data == encode_table(items) == plain_table(items, 512)
    ends = zip(encoded.value_ends.tolist(), items, strict=True)
    assert all(encoded.data[end - len(value) : end] == value for end, (_, value) in ends)
    swapped = [batches[0], batches[-1], *batches[1:]] if len(batches) > 2 else batches[::-1]
    with pytest.raises(InvalidRequestError, match="out of order"):
        encode_columns((Keys.of([key for key, _ in some]), Ragged.of([value for _, value in some])) for some in swapped)


def test_large_values_and_long_keys_take_longer_lengths() -> None:
    items = [(b"", b"h"), (b"a" * 300, b"v" * 40000), (b"a" * 300 + b"b", b""), (b"b" * 70000, b"x" * 5)]
    data = encode_table(items)
    assert data == plain_table(items)
    assert list(Table.decode(data).items()) == items


def test_a_huge_entry_gets_a_block_of_its_own_unless_it_is_the_first() -> None:
    huge = bytes(2 * BLOCK_SIZE)
    for items in ([(b"a", huge), (b"b", b""), (b"c", huge), (b"d", b"")], [(b"", b""), (b"k", huge)]):
        data = encode_table(items)
        assert data == plain_table(items)
        assert list(Table.decode(data).items()) == items


@pytest.mark.parametrize("keys", [(b"b", b"a"), (b"a", b"a"), (b"ab", b"a"), (b"", b""), (b"a" * 20, b"a" * 19)])
def test_keys_that_do_not_ascend_are_refused(keys: tuple[bytes, ...]) -> None:
    with pytest.raises(InvalidRequestError, match="out of order or there twice"):
        encode_table([(key, b"") for key in keys])


# ── damage ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def make_table(data_blocks: Sequence[bytes], separators: Sequence[bytes], kind: int = 0, handles: Items = ()) -> bytes:
    """Build a table of any blocks, sound checksums included."""
    out = b""

    def append(block: bytes, kind: int = 0) -> BlockHandle:
        nonlocal out
        handle = BlockHandle(len(out), len(block))
        tail = bytes((kind,))
        out += block + tail + coding.encode_fixed32(crc32c.mask(crc32c.crc32c(block + tail)))
        return handle

    listed = [
        (separator, append(block, kind).encode()) for block, separator in zip(data_blocks, separators, strict=True)
    ]
    metaindex = append(blocks.EMPTY_BLOCK)
    index = append(blocks.encode_block(handles or listed, 1))
    return out + Footer(metaindex, index).encode()


def block_of(entries: bytes, restarts: Sequence[int] = (0,)) -> bytes:
    return entries + blocks.encode_restarts(restarts)


BAD_BLOCKS = [
    (b"\1\0\0", "shorter than four bytes"),
    (b"\0\0\0\0", "restart count"),
    (b"\xff\xff\xff\xff", "restart count"),
    (block_of(b"\0\1\0a", [1]), "first restart"),
    (block_of(b"\0\1\0a", [0, 3]), "is not at an entry"),
    (block_of(b"\0\1\0a\0\1\0b", [0, 900]), "is not at an entry"),
    (block_of(b"\0\1\0a\1\1\0b", [0, 4]), "shared key bytes at a restart"),
    (block_of(b"", [0, 0]), "restart point in an empty block"),
    (block_of(b"\1\1\0a"), "shared key bytes"),
    (block_of(b"\0\1\0a\2\1\0b"), "shared key bytes longer"),
    (block_of(b"\0\1\5a"), "runs past the end"),
    (block_of(b"\0\5\0a"), "runs past the end"),
    (block_of(b"\0\xff\xff\xff\xff\x0f\xff\xff\xff\xff\x0fa"), "runs past the end"),
    (block_of(b"\0\x80\x80\x80\x80\x80\x80\x80\x01"), "longer than 5 bytes"),
    (block_of(b"\0\1"), "truncated varint"),
    (block_of(b"\0\1\0b\0\1\0a"), "ascending"),
    (block_of(b"\0\1\0a\1\0\0"), "ascending"),
]


@pytest.mark.parametrize(("block", "reason"), BAD_BLOCKS)
def test_a_bad_block_is_corrupt_wherever_it_is(block: bytes, reason: str) -> None:
    with pytest.raises(CorruptionError, match=reason) as caught:
        Table.decode(make_table([block], [b"z"]))
    assert caught.value.offset is not None
    good = block_of(b"\0\1\0A")
    with pytest.raises(CorruptionError, match=reason) as caught:
        Table.decode(make_table([good, block], [b"B", b"z"]))
    assert caught.value.offset is not None
    assert caught.value.offset >= len(good) + 5


def test_blocks_that_leveldb_never_writes_are_read() -> None:
    one = block_of(b"\0\1\1ax")
    assert list(Table.decode(make_table([one, blocks.EMPTY_BLOCK], [b"a", b"m"])).items()) == [(b"a", b"x")]
    snappy = b"\x0d\x30" + one
    assert list(Table.decode(make_table([snappy], [b"a"], kind=1)).items()) == [(b"a", b"x")]


def test_an_unknown_block_type_or_broken_snappy_is_corrupt() -> None:
    with pytest.raises(CorruptionError, match="block type"):
        Table.decode(make_table([block_of(b"\0\1\0a")], [b"a"], kind=2))
    with pytest.raises(CorruptionError, match="Snappy"):
        Table.decode(make_table([b"\x0d\x30ab"], [b"a"], kind=1))


def test_keys_outside_their_separators_are_corrupt() -> None:
    one, two = block_of(b"\0\1\0b"), block_of(b"\0\1\0d")
    Table.decode(make_table([one, two], [b"c", b"e"]))
    for separators in ([b"a", b"e"], [b"d", b"e"], [b"b", b"c"]):
        with pytest.raises(CorruptionError, match="separators"):
            Table.decode(make_table([one, two], separators))
    with pytest.raises(CorruptionError, match="ascending"):
        Table.decode(make_table([two, one], [b"d", b"e"]))


@pytest.mark.parametrize(
    ("handle", "reason"),
    [
        (b"\0", "truncated varint"),
        (BlockHandle(0, 1 << 62).encode(), "outside the file"),
        (BlockHandle((1 << 64) - 1, (1 << 64) - 1).encode(), "outside the file"),
        (BlockHandle(1 << 40, 8).encode(), "outside the file"),
        (BlockHandle(1, 8).encode(), "checksum"),
        (b"\xff" * 11, "longer than 10"),
    ],
)
def test_a_bad_handle_is_corrupt(handle: bytes, reason: str) -> None:
    with pytest.raises(CorruptionError, match=reason):
        Table.decode(make_table([block_of(b"\0\1\0b")], [b"c"], handles=[(b"c", handle)]))


def test_one_block_may_not_be_listed_twice() -> None:
    handle = BlockHandle(0, 8).encode()
    with pytest.raises(CorruptionError, match="overlap"):
        Table.decode(make_table([blocks.EMPTY_BLOCK], [b"c"], handles=[(b"c", handle), (b"d", handle)]))


def test_a_file_of_any_other_kind_is_corrupt() -> None:
    sound = encode_table([(b"", b"h")])
    for data in (b"", sound[1:FOOTER_SIZE], bytes(100), sound[:-1], sound + b"\0"):
        with pytest.raises(CorruptionError):
            Table.decode(data)


def test_keys_that_stand_for_far_more_than_the_file_holds_are_refused() -> None:
    """Prefix compression lets a kilobyte stand for gigabytes; no writer's file does that."""
    long = b"k" * 200_000
    entries = coding.encode_varint(0) + coding.encode_varint(len(long)) + b"\0" + long
    tail = coding.encode_varint(len(long)) + b"\x02\0"
    for number in range(2000):
        entries += tail + number.to_bytes(2, "big")
        tail = coding.encode_varint(len(long)) + b"\x02\0"
    with pytest.raises(CorruptionError, match="more room"):
        Table.decode(make_table([block_of(entries)], [b"z"]))


def test_long_keys_with_little_of_their_own_are_still_found() -> None:
    long = b"k" * 100_000
    entries = coding.encode_varint(0) + coding.encode_varint(len(long)) + b"\0" + long
    for number in range(300):
        entries += coding.encode_varint(len(long)) + b"\x02\1" + number.to_bytes(2, "big") + b"v"
    table = Table.decode(make_table([block_of(entries)], [b"z"]))
    assert len(table) == 301
    assert table.get(long) == b""
    assert table.get(long + (299).to_bytes(2, "big")) == b"v"
    assert table.get(long + b"\xff") is None
