"""The merged index: what the layout says, readable, and the same bytes however the entries are made."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ckptd.engine.lanes.merge import is_kept, merge
from ckptd.engine.lanes.plan import plan
from ckptd.engine.manifest import Manifest, Part
from ckptd.format import crc32c, strings, tensors
from ckptd.format.entry import Entry
from ckptd.format.index import Index, encode_index
from ckptd.format.slices import Box, TensorSlice
from tests import seams

WORDS = [[b"a", b"", b"longer than that"], [b"x" * 300]]


def string_part(words: list[bytes], start: int, total: int) -> Part:
    sections = strings.string_sections(np.array(words, object))
    size = len(sections.lengths) + 4 + len(sections.payload)
    return Part(
        "words", 7, (total,), Box((start,), (len(words),)), size,
        len(sections.lengths), sections.lengths_crc32c, sections.lengths_crc_bytes,
    )  # fmt: skip


def test_an_index_lists_every_tensor_with_combined_checksums():
    rng = np.random.default_rng(0)
    half = rng.random((5, 2)).astype(np.float16)
    floats = rng.random((5, 2)).astype(np.float32)
    manifests, data = [], []
    for start, rows, words, at in ((0, 3, WORDS[0], 0), (3, 2, WORDS[1], 3)):
        box = Box((start, 0), (rows, 2))
        stop = start + rows
        manifests.append(
            Manifest.of(
                [
                    Part("half", 19, (5, 2), box, rows * 4),
                    Part("floats", 1, (5, 2), box, rows * 8),
                    string_part(words, at, 4),
                ]
            )
        )
        stored_words = b"".join(bytes(piece) for piece in tensors.encode(np.array(words, object)).parts)
        data.append([half[start:stop].tobytes(), floats[start:stop].tobytes(), stored_words])
    layout = plan(manifests, 1)
    shard = bytearray(layout.shard_sizes[0])
    for literal in layout.literals:
        shard[literal.offset : literal.offset + len(literal.data)] = literal.data
    crcs = np.zeros(len(layout.segment_size), np.uint32)
    for row in range(len(crcs)):
        at, size, to = (
            int(column[row]) for column in (layout.segment_item_offset, layout.segment_size, layout.segment_offset)
        )
        piece = data[layout.segment_rank[row]][layout.segment_item[row]][at : at + size]
        shard[to : to + size] = piece
        crcs[row] = crc32c.crc32c(piece)

    index = Index.decode(merge(layout, crcs), "m.index")
    assert index.names() == ["floats", "half", "words"]
    expected = {"half": half, "floats": floats, "words": np.array(WORDS[0] + WORDS[1], object)}
    for name, array in expected.items():
        stored = index.tensor(name)
        assert stored.is_sliced == (name == "floats")
        read = np.empty(stored.shape, array.dtype)
        for piece in stored.pieces:
            where = tuple(slice(a, a + n) for a, n in zip(piece.box.start, piece.box.shape, strict=True))
            read[where] = tensors.decode(
                memoryview(shard)[piece.offset : piece.offset + piece.size],
                stored.dtype,
                piece.box.shape,
                crc32c=piece.crc32c,
            )
        assert (read == array).all()


def test_columns_and_single_entries_make_the_same_bytes():
    parts = [[Part("w", 1, (300, 7), Box((r * 100 + i, 0), (1, 7)), 28) for i in range(100)] for r in range(3)]
    layout = plan([Manifest.of(rank) for rank in parts], 3)
    crcs = np.random.default_rng(2).integers(0, 1 << 32, len(layout.segment_size), dtype=np.uint32)
    crcs[7] = crc32c.unmask(0)  # its masked form is left out of the entry
    slices = layout.slices[0]
    boxes = [
        TensorSlice(tuple(zip(start, shape, strict=True)))
        for start, shape in zip(slices.starts.tolist(), slices.shapes.tolist(), strict=True)
    ]
    items = [(b"w", Entry(dtype=1, shape=(300, 7), slices=tuple(boxes)))]
    for box, row in zip(boxes, slices.entries.tolist(), strict=True):
        entry = Entry(
            dtype=1,
            shape=(1, 7),
            shard_id=int(layout.entry_shard[row]),
            offset=int(layout.entry_offset[row]),
            size=28,
            crc32c=int(crcs[np.flatnonzero(layout.segment_entry == row)[0]]),
        )
        items.append((box.key("w"), entry))
    assert merge(layout, crcs) == encode_index(3, items)


def test_tensors_of_all_shapes_and_dtypes_are_in_the_order_of_their_keys():
    cuts = {
        "b": (1, (6, 4), [((0, 0), (2, 4)), ((2, 0), (4, 4))]),
        "a\0": (9, (3, 3), [((0, 0), (1, 2)), ((0, 2), (2, 1)), ((1, 0), (2, 1)), ((1, 1), (1, 1)), ((2, 1), (1, 2))]),
        "a": (1, (300,), [((0,), (70,)), ((70,), (230,))]),
        "a\xff": (1, (2, 9), [((0, 0), (2, 5)), ((0, 5), (2, 4))]),
        "whole": (9, (2, 3), [((0, 0), (2, 3))]),
        "scalar": (1, (), [((), ())]),
        "z" * 200: (1, (4,), [((0,), (4,))]),
    }
    width = {1: 4, 9: 8}
    parts = [
        Part(name, dtype, full, Box(*box), int(np.prod(box[1], dtype=int)) * width[dtype])
        for name, (dtype, full, boxes) in cuts.items()
        for box in boxes
    ]
    layout = plan([Manifest.of(parts[0::2]), Manifest.of(parts[1::2])], 2)
    crcs = np.random.default_rng(4).integers(1, 1 << 32, len(layout.segment_size), dtype=np.uint32)
    items = []
    for tensor, name in enumerate(layout.names):
        dtype, full = layout.dtypes[tensor], layout.full_shapes[tensor]
        slices = layout.slices.get(tensor)
        boxes = []
        for row in np.flatnonzero(layout.entry_tensor == tensor) if slices is None else slices.entries:
            [segment] = np.flatnonzero(layout.segment_entry == row)
            where = (int(column[row]) for column in (layout.entry_shard, layout.entry_offset, layout.entry_size))
            at = 0 if slices is None else int(np.flatnonzero(slices.entries == row)[0])
            shape = full if slices is None else tuple(slices.shapes[at].tolist())
            entry = Entry(dtype, shape, *where, crc32c=int(crcs[segment]))
            if slices is None:
                items.append((name.encode(), entry))
            else:
                boxes.append(TensorSlice(tuple(zip(slices.starts[at].tolist(), shape, strict=True))))
                items.append((boxes[-1].key(name), entry))
        if slices is not None:
            items.append((name.encode(), Entry(dtype, full, slices=tuple(boxes))))
    assert merge(layout, crcs) == encode_index(2, items)


def fresh(layout, crcs):
    """Merge a layout that was never merged before."""
    return merge(replace(layout), crcs)


def test_a_layout_that_was_merged_before_gives_the_index_of_its_new_checksums():
    parts = [
        [
            Part("sliced", 1, (40, 7), Box((20 * rank, 0), (20, 7)), 560),
            *(Part(f"own/{rank}/{n}", 19, (n, 3), Box.whole((n, 3)), 6 * n) for n in range(1, 4000)),
        ]
        for rank in range(2)
    ]
    layout = plan([Manifest.of(rank) for rank in parts], 2)
    rng = np.random.default_rng(3)

    def some():
        return rng.integers(1, 1 << 32, len(layout.segment_size), dtype=np.uint32)

    assert len(merge(layout, some())) > 100_000  # several blocks
    for _ in range(3):
        crcs = some()
        index = merge(layout, crcs)
        assert index == fresh(layout, crcs)
        assert Index.decode(index).tensor("own/1/7").pieces[0].crc32c in crcs


def test_a_checksum_that_is_left_out_moves_the_others():
    layout = plan([Manifest.of([Part(f"t{n}", 1, (2,), Box.whole((2,)), 8) for n in range(50)])], 1)
    usual = np.arange(1, 51, dtype=np.uint32)
    unusual = usual.copy()
    unusual[20] = crc32c.unmask(0)
    for crcs in (unusual, usual, unusual, usual + np.uint32(1)):
        assert merge(layout, crcs) == fresh(layout, crcs)
    assert len(merge(layout, unusual)) == len(merge(layout, usual)) - 5


def test_of_large_indexes_none_is_kept(monkeypatch):
    layout = plan([Manifest.of([Part("t", 1, (2,), Box.whole((2,)), 8)])], 1)
    seams.KEPT_INDEX_BYTES.put(monkeypatch, 10)
    merge(layout, np.array([5], np.uint32))
    assert not is_kept(layout)
    monkeypatch.undo()
    merge(layout, np.array([5], np.uint32))
    assert is_kept(layout)


def test_together_they_are_kept_up_to_a_bound_and_the_one_used_last_stays(monkeypatch):
    layouts = [plan([Manifest.of([Part(f"t{n}", 1, (2,), Box.whole((2,)), 8)])], 1) for n in range(3)]
    crcs = np.array([5], np.uint32)
    size = len(merge(layouts[0], crcs))
    seams.KEPT_INDEX_BYTES.put(monkeypatch, 2 * size + 50)
    merge(layouts[1], crcs)
    merge(layouts[0], crcs)
    merge(layouts[2], crcs)
    assert [is_kept(layout) for layout in layouts] == [True, False, True]
