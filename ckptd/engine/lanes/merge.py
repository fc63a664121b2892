"""The shards' checksums, put into the layout: one index. Pure.

Every segment's CRC-32C comes from the writer of its shard. An entry of one segment takes it as it is; entries of
several combine theirs, and entries of strings go on from the checksum over their lengths.

Keys and entries are columns all the way: there is a step of Python for each tensor, but none for each slice.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from ckptd.engine.layout import Column, Layout
from ckptd.engine.manifest import STRING, VARIANT
from ckptd.format import columns, crc32c
from ckptd.format.block_columns import Keys
from ckptd.format.crc_columns import combine_columns
from ckptd.format.index import encode_columns
from ckptd.format.ragged import Ragged
from ckptd.format.slices import key_prefix
from ckptd.format.strings import string_crc32c
from ckptd.format.table import EncodedTable

_CRC_BYTES = 4
KEPT_BYTES = 256 << 20  # of the indexes of all layouts: about six million entries
_AT_ONCE = 1 << 16  # entries: the arrays for so many stay small beside the index, and near the processor
_NO_CHECKSUM = -1


def merge(layout: Layout, segment_crcs: NDArray[np.uint32]) -> bytes:
    """Return the whole index; `segment_crcs` is per segment of the layout, unmasked.

    Training saves the same layout again and again: then only the checksums are put into the index of before.
    """
    crcs = entry_crcs(layout, segment_crcs)
    masked = columns.mask_column(crcs.astype(np.int64))
    is_usual = bool(masked.all())  # like every number, a checksum of 0 is left out, and what follows is elsewhere
    known = _known.find(layout) if is_usual else None
    if known is not None:
        return known.index(masked)
    rows: list[Column] = [np.array([_NO_CHECKSUM])]

    def batches() -> Iterator[tuple[Keys, Ragged]]:
        for entries in chain(_sliced_entries(layout, crcs), _named_entries(layout, crcs)):
            rows.append(entries.rows)
            yield entries.keys, entries.values

    encoded = encode_columns(layout.num_shards, batches())
    if is_usual:
        _known.keep(layout, _Known.of(encoded, np.concatenate(rows)))
    return encoded.data


def is_kept(layout: Layout) -> bool:
    """Whether the next index of this layout is made of the one before; one that is too large is not kept."""
    return _known.find(layout) is not None


@dataclass(frozen=True, slots=True)
class _Known:
    """The index of a layout, which entry each of its checksums is of, and where in the file it is."""

    encoded: EncodedTable
    rows: NDArray[np.int32]
    places: NDArray[np.uint32]

    @classmethod
    def of(cls, encoded: EncodedTable, rows: Column) -> _Known:
        """Note where the checksums are: an entry ends with its own. `rows` are negative where there is none."""
        has_one = rows >= 0
        places = encoded.value_ends[has_one] - _CRC_BYTES
        bare = EncodedTable(encoded.data, encoded.blocks, np.zeros(0, np.int64))
        return cls(bare, rows[has_one].astype(np.int32), places.astype(np.uint32))

    @property
    def memory_bytes(self) -> int:
        return len(self.encoded.data) + self.rows.nbytes + self.places.nbytes

    def index(self, masked: NDArray[np.uint32]) -> bytes:
        """Return the index with these checksums, per entry."""

        def put(file: NDArray[np.uint8]) -> None:
            for at in range(0, len(self.rows), _AT_ONCE):
                some = slice(at, at + _AT_ONCE)
                coded = masked[self.rows[some]].astype("<u4").view(np.uint8).reshape(-1, _CRC_BYTES)
                file[self.places[some][:, None] + np.arange(_CRC_BYTES)] = coded

        return self.encoded.changed(put)


class _KnownIndexes:
    """The latest indexes of layouts that are in use, those of all runs together up to `KEPT_BYTES`. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: WeakKeyDictionary[Layout, _Known] = WeakKeyDictionary()  # the one that was used last at the end

    def find(self, layout: Layout) -> _Known | None:
        with self._lock:
            known = self._kept.pop(layout, None)
            if known is not None:
                self._kept[layout] = known
            return known

    def keep(self, layout: Layout, known: _Known) -> None:
        if known.memory_bytes > KEPT_BYTES:
            return
        with self._lock:
            self._kept[layout] = known
            others = [each for each in self._kept if each is not layout]
            total = sum(each.memory_bytes for each in list(self._kept.values()))
            for other in others:
                if total <= KEPT_BYTES:
                    break
                dropped = self._kept.pop(other, None)
                total -= 0 if dropped is None else dropped.memory_bytes


_known = _KnownIndexes()


def entry_crcs(layout: Layout, segment_crcs: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return the checksum of each entry, unmasked."""
    crcs = np.zeros(len(layout.entry_tensor), np.uint32)
    counts = np.bincount(layout.segment_entry, minlength=len(crcs))
    is_string = (np.array(layout.dtypes, np.int64) == STRING)[layout.entry_tensor]
    plain = ((counts == 1) & ~is_string)[layout.segment_entry]
    crcs[layout.segment_entry[plain]] = segment_crcs[plain]
    first = np.searchsorted(layout.segment_entry, np.arange(len(crcs) + 1))
    several = np.flatnonzero((counts > 1) & ~is_string)
    # Those of many entries are joined in turns, a part of each; those of few entries entry by entry.
    if len(several) and len(several) >= counts[several].max():
        crcs[several] = segment_crcs[first[several]]
        for turn in range(1, int(counts[several].max())):
            some = several[counts[several] > turn]
            parts = first[some] + turn
            crcs[some] = combine_columns(crcs[some], segment_crcs[parts], layout.segment_size[parts])
        several = several[:0]
    for entry in [*several.tolist(), *np.flatnonzero(is_string).tolist()]:
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


@dataclass(frozen=True, eq=False, slots=True)
class _Entries:
    """Sorted entries of the index, and which entry of the layout the checksum is of that ends each, if any does."""

    keys: Keys
    values: Ragged
    rows: Column


def _values(layout: Layout, dtype: int, shapes: Column, rows: Column, crcs: NDArray[np.uint32]) -> Ragged:
    where = layout.entry_shard[rows].astype(np.int64), layout.entry_offset[rows], layout.entry_size[rows]
    return columns.entry_values(dtype, shapes, *where, crcs[rows].astype(np.int64))


def _sliced_entries(layout: Layout, crcs: NDArray[np.uint32]) -> Iterator[_Entries]:
    """Yield the entries of all slices. Their keys come before all others."""
    prefixes = {
        tensor: key_prefix(layout.names[tensor], slices.starts.shape[1]) for tensor, slices in layout.slices.items()
    }
    for tensors in _batches(layout, sorted(prefixes, key=prefixes.__getitem__)):
        suffixes, values, rows, groups = [], [], [], []
        for (dtype, _), numbers in _alike(layout, tensors).items():
            starts, shapes, entries, group = _slices_of(layout, tensors, numbers)
            # In a key, each dimension's start is followed by its length.
            sides = [side[:, axis] for axis in reversed(range(starts.shape[1])) for side in (shapes, starts)]
            order = np.lexsort((*sides, group))
            suffixes.append(columns.key_suffixes(starts[order], shapes[order]))
            values.append(_values(layout, dtype, shapes[order], entries[order], crcs))
            rows.append(entries[order])
            groups.append(group[order])
        group = np.concatenate(groups)
        order = np.argsort(group, kind="stable")
        keys = Keys([prefixes[tensor] for tensor in tensors], group[order], Ragged.joined(suffixes).take(order))
        yield _Entries(keys, Ragged.joined(values).take(order), np.concatenate(rows)[order])


def _named_entries(layout: Layout, crcs: NDArray[np.uint32]) -> Iterator[_Entries]:
    """Yield the entries under the tensors' names: of those that are stored whole, and those that list slices."""
    entry_of = np.full(len(layout.names), _NO_CHECKSUM, np.int64)
    entry_of[layout.entry_tensor] = np.arange(len(layout.entry_tensor))
    entry_of[list(layout.slices)] = _NO_CHECKSUM
    names = [name.encode("utf-8", "surrogateescape") for name in layout.names]
    for tensors in _batches(layout, sorted(range(len(names)), key=names.__getitem__)):
        values, places = [], []
        for (dtype, ndim), numbers in _alike(layout, tensors).items():
            whole = [number for number in numbers if tensors[number] not in layout.slices]
            sliced = [number for number in numbers if tensors[number] in layout.slices]
            if whole:
                rows = entry_of[[tensors[number] for number in whole]]
                values.append(_values(layout, dtype, _full_shapes(layout, tensors, whole, ndim), rows, crcs))
            if sliced:
                starts, shapes, _, group = _slices_of(layout, tensors, sliced)
                counts = np.bincount(group)[sliced]
                full_shapes = _full_shapes(layout, tensors, sliced, ndim)
                values.append(columns.slice_list_values(dtype, full_shapes, starts, shapes, counts))
            places += [*whole, *sliced]
        order = np.argsort(np.array(places, np.int64))
        keys = Keys.of([names[tensor] for tensor in tensors])
        yield _Entries(keys, Ragged.joined(values).take(order), entry_of[tensors])


def _batches(layout: Layout, tensors: list[int]) -> Iterator[list[int]]:
    """Yield some tensors after another, of which the entries take little memory together."""
    begin = size = 0
    for number, tensor in enumerate(tensors):
        slices = layout.slices.get(tensor)
        size += 1 if slices is None else len(slices.entries)
        if size >= _AT_ONCE or number == len(tensors) - 1:
            yield tensors[begin : number + 1]
            begin, size = number + 1, 0


def _slices_of(layout: Layout, tensors: list[int], numbers: list[int]) -> tuple[Column, Column, Column, Column]:
    """Return starts, shapes and entries of the slices of some of the tensors, and the number of the tensor of each."""
    sets = [layout.slices[tensors[number]] for number in numbers]
    return (
        np.concatenate([each.starts for each in sets]),
        np.concatenate([each.shapes for each in sets]),
        np.concatenate([each.entries for each in sets]),
        np.repeat(np.array(numbers, np.int64), [len(each.entries) for each in sets]),
    )


def _full_shapes(layout: Layout, tensors: list[int], numbers: list[int], ndim: int) -> Column:
    shapes = [layout.full_shapes[tensors[number]] for number in numbers]
    return np.array(shapes, np.int64).reshape(len(numbers), ndim)


def _alike(layout: Layout, tensors: list[int]) -> dict[tuple[int, int], list[int]]:
    """Group tensors by dtype and number of dimensions; return where each of a group is in the list."""
    alike: dict[tuple[int, int], list[int]] = {}
    for number, tensor in enumerate(tensors):
        alike.setdefault((layout.dtypes[tensor], len(layout.full_shapes[tensor])), []).append(number)
    return alike
