from __future__ import annotations

import numpy as np
import pytest

from ckptd.errors import InvalidRequestError
from ckptd.format import columns, crc32c
from ckptd.format.entry import NO_CRC32C, Entry
from ckptd.format.slices import TensorSlice

EDGES = [
    0,
    1,
    63,
    64,
    127,
    128,
    8191,
    8192,
    1 << 20,
    (1 << 34) - 1,
    1 << 48,
    (1 << 55) - 1,
    1 << 55,
    1 << 62,
    (1 << 63) - 1,
]


def plain_slices(starts: np.ndarray, lengths: np.ndarray) -> list[TensorSlice]:  # type: ignore[type-arg]
    return [
        TensorSlice(tuple((s, None if n == -1 else n) for s, n in zip(row, sizes, strict=True)))
        for row, sizes in zip(starts.tolist(), lengths.tolist(), strict=True)
    ]


def extents(count: int, rank: int, top: int) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    random = np.random.default_rng([count, rank, top])
    choices = np.array([edge for edge in EDGES if edge <= top], np.int64)
    starts = random.choice(choices, (count, rank))
    lengths = random.choice(np.append(choices, -1), (count, rank))
    return np.where(lengths == -1, 0, starts), lengths


@pytest.mark.parametrize("top", [0, 63, 128, 1 << 20, 1 << 48, (1 << 63) - 1])
@pytest.mark.parametrize("rank", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 40])
@pytest.mark.parametrize("name", ["w", "\0\udcff/é"])
def test_many_slices_at_once_are_coded_as_one_by_one(name: str, count: int, rank: int, top: int) -> None:
    starts, lengths = extents(count, rank, top)
    plain = plain_slices(starts, lengths)
    assert columns.slice_keys(name, starts, lengths) == [item.key(name) for item in plain]
    shape = (top,) * rank
    assert columns.slice_list_value(3, shape, starts, lengths, 2) == Entry(3, shape, 2, slices=tuple(plain)).encode()


@pytest.mark.parametrize("top", [0, 1, 127, 300, 1 << 40, (1 << 63) - 1])
@pytest.mark.parametrize("same_shape", [True, False])
@pytest.mark.parametrize("rank", [0, 1, 3])
@pytest.mark.parametrize("count", [0, 1, 40])
def test_many_entries_at_once_are_coded_as_one_by_one(count: int, rank: int, same_shape: bool, top: int) -> None:
    shapes, _ = extents(count, rank, top)
    if same_shape:
        shapes[:] = shapes[:1]
    numbers = np.abs(extents(count, 2, top)[0])
    shards = np.arange(count) % 3
    # A masked checksum of zero is left out, as protobuf leaves out every zero.
    crcs = np.where(np.arange(count) % 5 == 0, NO_CRC32C, np.arange(count) * 123_456_789 % (1 << 32))
    values = columns.entry_values(14, shapes, shards, numbers[:, 0], numbers[:, 1], crcs.astype(np.uint32)).split()
    rows = zip(shapes.tolist(), shards.tolist(), numbers.tolist(), crcs.tolist(), strict=True)
    assert values == [Entry(14, tuple(shape), shard, *pair, crc).encode() for shape, shard, pair, crc in rows]


def test_checksums_are_masked_by_column_as_one_by_one() -> None:
    crcs = np.array([0, 1, NO_CRC32C, 0xFFFFFFFF, 0xE3069283], np.int64)
    assert columns.mask_column(crcs).tolist() == [crc32c.mask(crc) for crc in crcs.tolist()]


@pytest.mark.parametrize(("starts", "lengths"), [([[-1]], [[1]]), ([[0]], [[-2]]), ([0], [1]), ([[0, 0]], [[1]])])
def test_extents_that_no_slice_has_are_refused(starts: list[object], lengths: list[object]) -> None:
    with pytest.raises(InvalidRequestError):
        columns.slice_keys("w", np.array(starts), np.array(lengths))


def test_negative_numbers_are_refused() -> None:
    one = np.ones(1, np.int64)
    for row in ([-one, one, one], [one, -one, one], [one, one, -one]):
        with pytest.raises(InvalidRequestError):
            columns.entry_values(1, np.ones((1, 1), np.int64), *row, one)
