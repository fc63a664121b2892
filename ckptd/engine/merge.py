"""The shards' checksums, put into the layout: one index. Pure.

Every segment's CRC-32C comes from the writer of its shard. An entry of one segment takes it as it is; entries of
several combine theirs, and entries of strings go on from the checksum over their lengths.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ckptd.engine.layout import Layout
from ckptd.engine.manifest import STRING, VARIANT
from ckptd.format import columns, crc32c
from ckptd.format.index import encode_entries
from ckptd.format.strings import string_crc32c


def merge(layout: Layout, segment_crcs: NDArray[np.uint32]) -> bytes:
    """Return the whole index; `segment_crcs` is per segment of the layout, unmasked."""
    crcs = entry_crcs(layout, segment_crcs)
    items = [*_sliced_items(layout, crcs), *_whole_items(layout, crcs)]
    items.sort()
    return encode_entries(layout.num_shards, items)


def entry_crcs(layout: Layout, segment_crcs: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return the checksum of each entry, unmasked."""
    crcs = np.zeros(len(layout.entry_tensor), np.uint32)
    counts = np.bincount(layout.segment_entry, minlength=len(crcs))
    is_string = (np.array(layout.dtypes, np.int64) == STRING)[layout.entry_tensor]
    plain = ((counts == 1) & ~is_string)[layout.segment_entry]
    crcs[layout.segment_entry[plain]] = segment_crcs[plain]
    first = np.searchsorted(layout.segment_entry, np.arange(len(crcs) + 1))
    for entry in np.flatnonzero((counts > 1) | is_string).tolist():
        # Lengths of strings take part through `entry_lengths_crc`, in another form than the stored one.
        crc = size = 0
        for row in range(int(first[entry]), int(first[entry + 1])):
            if not layout.segment_is_lengths[row]:
                crc = crc32c.combine(crc, int(segment_crcs[row]), int(layout.segment_size[row]))
                size += int(layout.segment_size[row])
        crcs[entry] = string_crc32c(int(layout.entry_lengths_crc[entry]), crc, size) if is_string[entry] else crc
    # Of variants the checksum covers other bytes than are stored, so whoever encoded them has told it.
    is_variant = (np.array(layout.dtypes, np.int64) == VARIANT)[layout.entry_tensor]
    crcs[is_variant] = layout.entry_lengths_crc[is_variant]
    return crcs


def _whole_items(layout: Layout, crcs: NDArray[np.uint32]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the entries of tensors that are stored whole, those of one dtype and rank at once."""
    alike: dict[tuple[int, int], list[int]] = {}
    tensors = layout.entry_tensor.tolist()
    for row, tensor in enumerate(tensors):
        if tensor not in layout.slices:
            alike.setdefault((layout.dtypes[tensor], len(layout.full_shapes[tensor])), []).append(row)
    for (dtype, rank), rows in alike.items():
        shapes = [layout.full_shapes[tensors[row]] for row in rows]
        values = columns.entry_values(
            dtype,
            np.array(shapes, np.int64).reshape(len(rows), rank),
            layout.entry_shard[rows],
            layout.entry_offset[rows],
            layout.entry_size[rows],
            crcs[rows].astype(np.int64),
        )
        yield from zip([_key(layout.names[tensors[row]]) for row in rows], values, strict=True)


def _sliced_items(layout: Layout, crcs: NDArray[np.uint32]) -> Iterator[tuple[bytes, bytes]]:
    for tensor, slices in layout.slices.items():
        name, dtype, rows = layout.names[tensor], layout.dtypes[tensor], slices.entries
        keys = columns.slice_keys(name, slices.starts, slices.shapes)
        values = columns.entry_values(
            dtype,
            slices.shapes,
            layout.entry_shard[rows],
            layout.entry_offset[rows],
            layout.entry_size[rows],
            crcs[rows].astype(np.int64),
        )
        yield from zip(keys, values, strict=True)
        yield (
            _key(name),
            columns.slice_list_value(dtype, layout.full_shapes[tensor], slices.starts, slices.shapes),
        )


def _key(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
