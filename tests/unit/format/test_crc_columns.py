"""Checksums of strings laid end to end, many at once: each as `crc32c.combine` says."""

from __future__ import annotations

import numpy as np
import pytest

from ckptd.format.crc32c import combine, crc32c
from ckptd.format.crc_columns import combine_columns


@pytest.mark.parametrize("sizes", [[5], [1, 2, 1 << 20, 3_000_000_007], range(1, 600)], ids=["one", "some", "many"])
def test_each_pair_is_combined(sizes):
    rng = np.random.default_rng(1)
    one, other = rng.integers(0, 1 << 32, (2, 1000), dtype=np.uint32)
    lengths = rng.choice(np.array(sizes, np.int64), 1000)
    expected = [combine(*each) for each in zip(one.tolist(), other.tolist(), lengths.tolist(), strict=True)]
    assert combine_columns(one, other, lengths).tolist() == expected


def test_it_is_the_checksum_of_the_whole():
    [found] = combine_columns(*(np.array([crc32c(each)], np.uint32) for each in (b"ab", b"cde")), np.array([3]))
    assert found == crc32c(b"abcde")
