from __future__ import annotations

import numpy as np
import pytest

from ckptd.format import columns
from ckptd.format.entry import Entry
from ckptd.format.slice_list import slice_columns
from ckptd.format.slices import TensorSlice


@pytest.mark.parametrize("top", [1, 127, 128, 1 << 40, (1 << 63) - 1])
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_a_list_of_slices_comes_back_as_the_columns_it_was_made_of(rank: int, top: int) -> None:
    random = np.random.default_rng(top % 1000)
    lengths = random.integers(-1, top, (50, rank), endpoint=True)
    lengths[lengths == 0] = 1
    starts = np.where(lengths == -1, 0, random.integers(0, top, (50, rank)))
    value = columns.slice_list_value(1, (top,) * rank, starts, lengths, 3)
    found = slice_columns(value, rank)
    assert found is not None
    assert found[0].tolist() == starts.tolist()
    assert found[1].tolist() == lengths.tolist()
    assert slice_columns(value, rank + 1) is None
    assert slice_columns(value, rank - 1) is None


def test_a_whole_entry_and_unusual_ones_are_left_to_the_plain_decoder() -> None:
    plain = Entry(1, (3,), 0, 300, 12, 7).encode()
    sliced = Entry(1, (3,), slices=(TensorSlice.parse("1,2"),)).encode()
    assert slice_columns(sliced, 1) is not None
    negative = Entry(1, (3,), slices=(TensorSlice(((-1, 2),)),)).encode()
    for value in (b"", plain, sliced + b"\x7a\x00", b"\x7a\x00" + sliced, sliced[:-1], negative, sliced + b"\x3a"):
        assert slice_columns(value, 1) is None


def test_no_cut_or_flipped_byte_gives_other_columns_than_the_plain_decoder() -> None:
    from ckptd.errors import CorruptionError

    sliced = Entry(1, (3, 9), slices=tuple(map(TensorSlice.parse, ("1,2:-", "0,1:3,5", "0,200:300,1")))).encode()
    agreed = 0
    for at in range(len(sliced)):
        for bit in range(8):
            value = bytearray(sliced)
            value[at] ^= 1 << bit
            found = slice_columns(bytes(value), 2)
            try:
                recorded = Entry.decode(bytes(value)).slices
            except CorruptionError:
                continue
            if found is None:
                continue
            rows = zip(found[0].tolist(), found[1].tolist(), strict=True)
            read = [tuple((s, None if n == -1 else n) for s, n in zip(*row, strict=True)) for row in rows]
            assert read == [item.extents for item in recorded]
            agreed += 1
    assert agreed > 50
