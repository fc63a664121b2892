"""The shards' checksums, put into the layout: one index. Pure.

Every segment's CRC-32C comes from the writer of its shard. An entry of one segment takes it as it is; entries of
several combine theirs, and entries of strings go on from the checksum over their lengths.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from ckptd.engine.layout import Column, Layout
from ckptd.engine.manifest import STRING, VARIANT
from ckptd.format import columns, crc32c
from ckptd.format.index import encode_with_places
from ckptd.format.strings import string_crc32c
from ckptd.format.table import EncodedTable

_CRC_BYTES = 4
KEPT_BYTES = 16 << 20  # of an index: about 300,000 entries; the daemon remembers a few layouts of each run
_NO_CHECKSUM = -1

_Item = tuple[bytes, bytes, int]  # key, value, and the entry whose checksum ends the value


def merge(layout: Layout, segment_crcs: NDArray[np.uint32]) -> bytes:
    """Return the whole index; `segment_crcs` is per segment of the layout, unmasked.

    Training saves the same layout again and again: then only the checksums are put into the index of before.
    """
    crcs = entry_crcs(layout, segment_crcs)
    masked = columns.mask_column(crcs.astype(np.int64))
    is_usual = bool(masked.all())  # like every number, a checksum of 0 is left out, and what follows is elsewhere
    known = _known.get(layout) if is_usual else None
    if known is not None:
        return known.index(masked)
    items = [*_sliced_items(layout, crcs), *_whole_items(layout, crcs)]
    items.sort()
    encoded = encode_with_places(layout.num_shards, [(key, value) for key, value, _ in items])
    if is_usual and len(encoded.data) <= KEPT_BYTES:
        _known[layout] = _Known.of(encoded, np.array([row for *_, row in items], np.int64))
    return encoded.data


def is_kept(layout: Layout) -> bool:
    """Whether the next index of this layout is made of the one before; a large one is not kept."""
    return layout in _known


@dataclass(frozen=True, slots=True)
class _Known:
    """The index of a layout, which entry each of its checksums is of, and where in the file it is."""

    encoded: EncodedTable
    rows: Column
    places: Column

    @classmethod
    def of(cls, encoded: EncodedTable, rows: Column) -> _Known:
        """Note where the checksums are: an entry ends with its own. `rows` are negative where there is none."""
        has_one = rows >= 0
        return cls(encoded, rows[has_one], encoded.value_ends[1:][has_one] - _CRC_BYTES)

    def index(self, masked: NDArray[np.uint32]) -> bytes:
        """Return the index with these checksums, per entry."""

        def put(file: NDArray[np.uint8]) -> None:
            coded = masked[self.rows].astype("<u4").view(np.uint8).reshape(-1, _CRC_BYTES)
            file[self.places[:, None] + np.arange(_CRC_BYTES)] = coded

        return self.encoded.changed(put)


_known: WeakKeyDictionary[Layout, _Known] = WeakKeyDictionary()


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
        rows = np.arange(first[entry], first[entry + 1])
        rows = rows[~layout.segment_is_lengths[rows]]
        sizes = layout.segment_size[rows].tolist()
        crc = crc32c.joined(segment_crcs[rows].tolist(), sizes)
        crcs[entry] = string_crc32c(int(layout.entry_lengths_crc[entry]), crc, sum(sizes)) if is_string[entry] else crc
    # Of variants the checksum covers other bytes than are stored, so the encoder has provided it.
    is_variant = (np.array(layout.dtypes, np.int64) == VARIANT)[layout.entry_tensor]
    crcs[is_variant] = layout.entry_lengths_crc[is_variant]
    return crcs


def _whole_items(layout: Layout, crcs: NDArray[np.uint32]) -> Iterator[_Item]:
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
        yield from zip([_key(layout.names[tensors[row]]) for row in rows], values, rows, strict=True)


def _sliced_items(layout: Layout, crcs: NDArray[np.uint32]) -> Iterator[_Item]:
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
        yield from zip(keys, values, rows.tolist(), strict=True)
        yield (
            _key(name),
            columns.slice_list_value(dtype, layout.full_shapes[tensor], slices.starts, slices.shapes),
            _NO_CHECKSUM,
        )


def _key(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
