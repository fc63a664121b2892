"""Captured memory → the checksums of what lies in it, taken after training goes on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ckptd.engine.feeding import first_sums
from ckptd.engine.layout import Column
from ckptd.engine.manifest import Manifest
from ckptd.format import crc32c
from ckptd.format.strings import CHECKSUM_BYTES

Sums = NDArray[np.uint32]


def sum_parts(manifest: Manifest, offsets: Column, memory: memoryview) -> Sums:
    """Return CRC-32C per part and, of strings, two: of the lengths, and of what follows their checksum.

    `offsets` says where the stored form of each part begins in `memory`.
    """
    begins = first_sums(manifest)
    sums = np.zeros(int(begins[-1]), np.uint32)
    ends = offsets + manifest.sizes
    has_two = np.diff(begins) > 1
    one = np.flatnonzero(~has_two)
    places = zip(offsets[one].tolist(), ends[one].tolist(), strict=True)
    sums[begins[one]] = crc32c.each(memory[at:end] for at, end in places)
    for row in np.flatnonzero(has_two).tolist():
        at, end = int(offsets[row]), int(ends[row])
        lengths_end = at + int(manifest.lengths_sizes[row])
        sums[begins[row]] = crc32c.crc32c(memory[at:lengths_end])
        sums[begins[row] + 1] = crc32c.crc32c(memory[lengths_end + CHECKSUM_BYTES : end])
    return sums
