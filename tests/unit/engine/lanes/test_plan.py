"""The plan: every element stored once, where the index says; anything that can't be a whole tensor is refused."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptd.engine.lanes.plan import plan
from ckptd.engine.layout import Layout
from ckptd.engine.manifest import Manifest, Part
from ckptd.errors import InvalidRequestError
from ckptd.format import dtypes
from ckptd.format.slices import Box

FLOAT, HALF, INT64 = (dtypes.by_name(name).number for name in ("float32", "float16", "int64"))


def part(name: str, full: tuple[int, ...], start: tuple[int, ...], shape: tuple[int, ...], dtype: int = FLOAT) -> Part:
    return Part(name, dtype, full, Box(start, shape), prod(shape) * dtypes.by_number(dtype).width)


def whole(name: str, full: tuple[int, ...], dtype: int = FLOAT) -> Part:
    return part(name, full, (0,) * len(full), full, dtype)


def sent_by(layout: Layout) -> dict[tuple[int, int], int]:
    """How many bytes each (rank, manifest row) sends."""
    sent: dict[tuple[int, int], int] = {}
    for rank, item, size in zip(layout.segment_rank, layout.segment_item, layout.segment_size, strict=True):
        sent[int(rank), int(item)] = sent.get((int(rank), int(item)), 0) + int(size)
    return sent


def test_every_part_of_a_sliced_tensor_is_an_entry_and_the_list_of_slices_ascends():
    manifests = [Manifest.of([part("w", (10, 4), (start, 0), (rows, 4))]) for start, rows in ((6, 4), (0, 3), (3, 3))]
    layout = plan(manifests, 3)
    assert layout.slices[0].starts.tolist() == [[0, 0], [3, 0], [6, 0]]
    assert layout.slices[0].shapes.tolist() == [[3, 4], [3, 4], [4, 4]]
    assert sent_by(layout) == {(0, 0): 64, (1, 0): 48, (2, 0): 48}


def test_what_several_ranks_hold_is_sent_once_by_the_one_with_least_to_send():
    manifests = [
        Manifest.of([part("w", (3, 4), (0, 0), (2, 4)), whole("b", (5,))]),
        Manifest.of([part("w", (3, 4), (2, 0), (1, 4)), whole("b", (5,))]),
    ]
    assert sent_by(plan(manifests, 2)) == {(0, 0): 32, (1, 0): 16, (1, 1): 20}


def test_the_lowest_rank_that_holds_it_sends_what_is_wanted_from_there():
    manifests = [
        Manifest.of([whole("a", (100,))]),
        Manifest.of([part("w", (4,), (0,), (2,)), whole("b", (5,))]),
        Manifest.of([part("w", (4,), (2,), (2,)), whole("b", (5,))]),
        Manifest.of([part("w", (4,), (2,), (2,)), whole("b", (5,)), whole("a", (100,))]),
    ]
    assert (3, 2) not in sent_by(plan(manifests, 2, from_lowest={"a", "b", "w"}))
    assert sent_by(plan(manifests, 2, from_lowest={"a", "b", "w"})) == {(0, 0): 400, (1, 0): 8, (1, 1): 20, (2, 0): 8}
    assert (1, 1) not in sent_by(plan(manifests, 2))


def test_replicas_of_many_tensors_spread_over_the_ranks():
    manifests = [Manifest.of([whole(f"t{i}", (100,)) for i in range(8)])] * 4
    layout = plan(manifests, 4)
    assert layout.shard_sizes == (800, 800, 800, 800)
    assert np.bincount(layout.segment_rank).tolist() == [2, 2, 2, 2]


def test_parts_that_tensorflow_can_not_join_lie_side_by_side_under_one_entry():
    rows = ((0, 2), (2, 5), (7, 1))
    manifests = [Manifest.of([part("h", (8, 3), (start, 0), (n, 3), HALF)]) for start, n in rows]
    layout = plan(manifests, 3)
    assert layout.slices == {}
    assert len(layout.entry_tensor) == 1
    assert layout.segment_offset.tolist() == [0, 12, 42]
    assert layout.segment_rank.tolist() == [0, 1, 2]


def test_other_cuts_of_such_a_dtype_stay_slices():
    manifests = [Manifest.of([part("h", (4, 6), (0, 3 * rank), (4, 3), HALF)]) for rank in (0, 1)]
    assert len(plan(manifests, 2).slices[0].entries) == 2


def test_tensors_of_many_shapes_and_cuts_are_planned_together():
    cuts = {
        "rows": ((6, 4), [((0, 0), (2, 4)), ((2, 0), (4, 4))]),
        "grid": ((6, 4), [((0, 0), (3, 1)), ((0, 1), (3, 3)), ((3, 0), (3, 1)), ((3, 1), (3, 3))]),
        "pinwheel": (
            (3, 3),
            [((0, 0), (1, 2)), ((0, 2), (2, 1)), ((1, 0), (2, 1)), ((1, 1), (1, 1)), ((2, 1), (1, 2))],
        ),
        "line": ((5,), [((0,), (3,)), ((3,), (2,))]),
    }
    manifests = [
        Manifest.of(
            [part(name, full, *boxes[(rank + turn) % len(boxes)]) for name, (full, boxes) in cuts.items()
             for turn in range(0, len(boxes), 2) if rank + turn < len(boxes)]
        )
        for rank in range(2)
    ]  # fmt: skip
    layout = plan(manifests, 3)
    assert list(layout.slices) == [0, 1, 2, 3]
    for tensor, name in enumerate(layout.names):
        found = layout.slices[tensor]
        boxes = zip(map(tuple, found.starts.tolist()), map(tuple, found.shapes.tolist()), strict=True)
        assert list(boxes) == sorted(cuts[name][1])
    cuts["pinwheel"][1][3] = ((1, 0), (1, 1))
    overlapping = [Manifest.of([part(name, full, *box) for name, (full, boxes) in cuts.items() for box in boxes])]
    with pytest.raises(InvalidRequestError, match=r"tensor 'pinwheel' \[3, 3\] overlap"):
        plan(overlapping, 1)


def test_an_empty_tensor_needs_no_bytes_and_an_empty_part_of_a_full_one_is_left_out():
    manifests = [
        Manifest.of([whole("z", (0, 3)), part("w", (2,), (0,), (2,))]),
        Manifest.of([part("w", (2,), (2,), (0,))]),
    ]
    layout = plan(manifests, 2)
    assert layout.slices == {}
    assert dict(zip(layout.entry_tensor.tolist(), layout.entry_size.tolist(), strict=True)) == {0: 0, 1: 8}
    assert sent_by(layout) == {(0, 1): 8}


def test_a_plan_of_equal_manifests_is_equal_whatever_order_ranks_arrive_in():
    manifests = [Manifest.of([part("w", (4,), (rank,), (1,)), whole("b", (7,))]) for rank in range(4)]
    one, other = plan(manifests, 4), plan(manifests, 4)
    assert one.segment_offset.tolist() == other.segment_offset.tolist()
    assert one.segment_rank.tolist() == other.segment_rank.tolist()


REFUSED = {
    "full shapes differ": (
        [[part("w", (10, 4), (0, 0), (5, 4))], [part("w", (11, 4), (5, 0), (6, 4))]],
        r"ranks 0 and 1 disagree about the full shape of tensor 'w'.*\[10, 4\].*\[11, 4\]",
    ),
    "dtypes differ": (
        [[whole("w", (2,))], [whole("w", (2,), INT64)]],
        r"ranks 0 and 1 disagree about the dtype of tensor 'w'.*float32.*int64",
    ),
    "parts overlap": (
        [[part("w", (10, 4), (0, 0), (6, 4))], [part("w", (10, 4), (5, 0), (5, 4))]],
        r"parts of tensor 'w' \[10, 4\] overlap: start \[0, 0\] shape \[6, 4\] on rank 0 and start \[5, 0\]",
    ),
    "a whole and a part overlap": (
        [[whole("w", (10,))], [part("w", (10,), (5,), (5,))]],
        r"overlap.*on rank 0 and .*on rank 1",
    ),
    "a gap along an axis": (
        [[part("w", (10,), (0,), (4,))], [part("w", (10,), (6,), (4,))]],
        r"leave a gap: no rank brings 4 to 6 along axis 0 \(it has parts on ranks 0, 1\)",
    ),
    "a gap in a grid": (
        [[part("w", (2, 2), (0, 0), (1, 1)), part("w", (2, 2), (1, 1), (1, 1))], [part("w", (2, 2), (0, 1), (1, 1))]],
        r"no rank brings 1 of its 4 elements",
    ),
    "only empty parts": ([[part("w", (2,), (0,), (0,))]], r"tensor 'w' is named, but no rank brings any of it"),
    "nothing at all": ([[], []], r"nothing to save"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_whole_tensor_is_refused_by_name(case):
    ranks, message = REFUSED[case]
    with pytest.raises(InvalidRequestError, match=message):
        plan([Manifest.of(parts) for parts in ranks], 2)


@st.composite
def tilings(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Box]]:
    """A shape, and boxes from cutting it again and again."""
    full = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    boxes = [Box((0,) * len(full), full)]
    for _ in range(draw(st.integers(0, 8))):
        at = draw(st.integers(0, len(boxes) - 1))
        axis = draw(st.integers(0, len(full) - 1))
        box = boxes[at]
        if box.shape[axis] < 2:
            continue
        cut = draw(st.integers(1, box.shape[axis] - 1))
        low, high = list(box.shape), list(box.shape)
        low[axis], high[axis] = cut, box.shape[axis] - cut
        start = list(box.start)
        start[axis] += cut
        boxes[at : at + 1] = [Box(box.start, tuple(low)), Box(tuple(start), tuple(high))]
    return full, boxes


@settings(max_examples=150, deadline=None)
@given(
    tiling=tilings(),
    ranks=st.integers(1, 4),
    shards=st.integers(1, 5),
    dtype=st.sampled_from([FLOAT, HALF]),
    data=st.data(),
)
def test_any_tiling_spread_over_ranks_is_stored_exactly_once(tiling, ranks, shards, dtype, data):
    full, boxes = tiling
    holders = [data.draw(st.sets(st.integers(0, ranks - 1), min_size=1)) for _ in boxes]
    manifests = [
        Manifest.of(
            [
                part("w", full, box.start, box.shape, dtype)
                for box, holder in zip(boxes, holders, strict=True)
                if rank in holder
            ]
            + [whole(f"own{rank}", (3,))]
        )
        for rank in range(ranks)
    ]
    layout = plan(manifests, shards)
    assert 1 <= layout.num_shards <= shards
    element = dtypes.by_number(dtype).width
    stored = np.zeros(full, int)
    for rank, item, size in zip(layout.segment_rank, layout.segment_item, layout.segment_size, strict=True):
        manifest = manifests[rank]
        if manifest.names[manifest.tensor[item]] == "w":
            box = manifest.box(int(item))
            assert size == box.num_elements * element
            stored[tuple(slice(a, a + n) for a, n in zip(box.start, box.shape, strict=True))] += 1
    assert (stored == 1).all()
    for shard, size in enumerate(layout.shard_sizes):  # bytes of a shard: all of them, none twice
        rows = np.flatnonzero(layout.segment_shard == shard)
        order = rows[np.argsort(layout.segment_offset[rows])]
        ends = layout.segment_offset[order] + layout.segment_size[order]
        assert layout.segment_offset[order].tolist() == [0, *ends[:-1].tolist()]
        assert ends[-1] == size


@settings(max_examples=100, deadline=None)
@given(tiling=tilings(), data=st.data())
def test_a_tiling_with_one_box_taken_away_or_doubled_in_part_is_refused(tiling, data):
    full, boxes = tiling
    at = data.draw(st.integers(0, len(boxes) - 1))
    if data.draw(st.booleans()) and len(boxes) > 1:
        broken = boxes[:at] + boxes[at + 1 :]
    else:
        box = boxes[at]
        if box.num_elements < 2:
            return
        axis = max(range(len(full)), key=lambda axis: box.shape[axis])
        smaller = tuple(n - (i == axis) for i, n in enumerate(box.shape))
        broken = [*boxes, Box(box.start, smaller)]
    with pytest.raises(InvalidRequestError, match="overlap|gap"):
        plan([Manifest.of([part("w", full, box.start, box.shape) for box in broken])], 2)
