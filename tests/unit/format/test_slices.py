from __future__ import annotations

import itertools

import numpy as np
import pytest

from ckptd.errors import CorruptionError, InvalidRequestError
from ckptd.format import slices, tiling
from ckptd.format.slices import Box, TensorSlice, format_spec, parse_key, parse_spec

SPECS = [
    ("7 4 3,2:0,4", (7, 4), ((3, 2), (0, 4))),
    ("7 4 3,2:-", (7, 4), ((3, 2), (0, None))),
    ("5 -", (5,), ((0, None),)),
    ("0 4 -:0,2", (0, 4), ((0, None), (0, 2))),
]


@pytest.mark.parametrize(("spec", "shape", "extents"), SPECS)
def test_a_spec_and_its_value_are_one_thing(
    spec: str, shape: tuple[int, ...], extents: tuple[tuple[int, int | None], ...]
) -> None:
    assert parse_spec(spec) == (shape, TensorSlice(extents))
    assert format_spec(shape, TensorSlice(extents)) == spec


BAD_SPECS = [
    ("0,1:0,1", "Need least two elements in shape_and_slice specification: 0,1:0,1"),
    ("", "Need least two elements in shape_and_slice specification: "),
    ("a 0,1", "Non numerical dimension in shape_and_slice: a 0,1"),
    ("3  0,1", "Non numerical dimension in shape_and_slice: 3  0,1"),
    ("3 0", "Expected a pair of numbers or '-' but got '0': string = 0"),
    ("3 0,x", "Expected a pair of numbers or '-' but got '0,x': string = 0,x"),
    ("3 0,1,2", "Expected a pair of numbers or '-' but got '0,1,2': string = 0,1,2"),
    ("3 2 0,1:", "Expected a pair of numbers or '-' but got '': string = 0,1:"),
    ("9 99999999999999999999,1", "Expected a pair of numbers or '-' but got '99999999999999999999,1'"),
    ("4 0,0", "Expected non-negative start and positive length but got start = 0, length = 0: string = 0,0"),
    ("4 -1,2", "Expected non-negative start and positive length but got start = -1, length = 2: string = -1,2"),
    ("2 3 0,1", "Mismatching ranks: shape = [2,3], slice = 0,1"),
    ("2 3 0,3:0,1", "Extent in dimension 0 out of bounds: shape = [2,3], slice = 0,3:0,1"),
    ("9223372036854775807 1,9223372036854775807", "Extent in dimension 0 out of bounds"),
]


@pytest.mark.parametrize(("spec", "message"), BAD_SPECS)
def test_a_bad_spec_is_refused_in_tensorflows_words(spec: str, message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_spec(spec)
    assert message in str(caught.value)


KEYS = [
    ("w", "0,1:0,6", "00 770001 0102 8081 8086"),
    ("w", "1,2:-", "00 770001 0102 8182 807f"),
    ("w", "3,1:0,6", "00 770001 0102 8381 8086"),
    ("n\0m", "0,2", "00 6e00ff6d0001 0101 8082"),
    ("\udcffz", "1,2", "00 ff007a0001 0101 8182"),
]


@pytest.mark.parametrize(("name", "text", "key"), KEYS)
def test_a_slice_and_its_key_are_one_thing(name: str, text: str, key: str) -> None:
    tensor_slice = TensorSlice.parse(text)
    assert str(tensor_slice) == text
    assert tensor_slice.key(name) == bytes.fromhex(key)
    assert parse_key(bytes.fromhex(key)) == (name, tensor_slice)


@pytest.mark.parametrize(
    "key", ["", "0101", "00", "000001", "00000101", "0077000101", "007700010101808100", "00770001ff"]
)
def test_other_keys_are_no_slices(key: str) -> None:
    with pytest.raises(CorruptionError):
        parse_key(bytes.fromhex(key))


def test_both_spellings_of_the_whole_are_whole_and_have_two_keys() -> None:
    dash, explicit = TensorSlice.parse("-:-"), TensorSlice.parse("0,2:0,3")
    assert dash.is_whole((2, 3))
    assert explicit.is_whole((2, 3))
    assert not explicit.is_whole((2, 4))
    assert dash.resolve((2, 3)) == explicit.resolve((2, 3)) == Box.whole((2, 3))
    assert dash.key("w") != explicit.key("w")
    assert TensorSlice.of_box(Box((1, 0), (1, 3))) == TensorSlice.parse("1,1:0,3")


@pytest.mark.parametrize("extents", [((-1, 2),), ((1, None),), ((0, 0),), ((0, -1),), ((2, 2),), ()])
def test_a_recorded_slice_that_does_not_fit_is_refused(extents: tuple[tuple[int, int | None], ...]) -> None:
    with pytest.raises(InvalidRequestError):
        TensorSlice(extents).resolve((3,))


def test_boxes_meet_where_both_have_elements() -> None:
    whole = np.arange(30).reshape(5, 6)
    starts = [(0, 0), (1, 2), (4, 5), (2, 0)]
    shapes = [(5, 6), (2, 3), (1, 1), (3, 6), (0, 2)]
    boxes = [Box(s, n) for s in starts for n in shapes if s[0] + n[0] <= 5 and s[1] + n[1] <= 6]
    everything = Box.whole((5, 6))
    for one, two in itertools.product(boxes, boxes):
        elements = [set(whole[box.within(everything)].ravel().tolist()) for box in (one, two)]
        common = one.intersect(two)
        found = set(whole[common.within(everything)].ravel().tolist()) if common else set()
        assert found == elements[0] & elements[1]
        if elements[1]:
            assert one.contains(two) == (elements[1] <= elements[0])
    assert Box((), ()).num_elements == 1
    assert Box((), ()).intersect(Box((), ())) == Box((), ())


# ── tilings ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def grid(*cuts: int) -> list[Box]:
    """A grid with so many parts per axis, of uneven sizes."""
    axes = [list(itertools.accumulate(range(1, count + 1), initial=0)) for count in cuts]
    pairs = [list(itertools.pairwise(axis)) for axis in axes]
    return [
        Box(tuple(low for low, _ in cell), tuple(high - low for low, high in cell))
        for cell in itertools.product(*pairs)
    ]


def brute_force(boxes: list[Box]) -> bool:
    return any(one.intersect(two) is not None for one, two in itertools.combinations(boxes, 2))


@pytest.mark.parametrize("cuts", [(1,), (300,), (20, 20), (7, 7, 7), (200, 1), (1, 200)])
def test_a_grid_tiles_and_one_more_box_overlaps(cuts: tuple[int, ...]) -> None:
    boxes = grid(*cuts)
    shape = tuple(map(max, zip(*(box.stop for box in boxes), strict=True)))
    assert tiling.missing_or_overlapping(boxes, shape) is None
    for extra in (boxes[len(boxes) // 2], Box((0,) * len(shape), (1,) * len(shape))):
        found = tiling.find_overlap([*boxes, extra])
        assert found is not None
        assert found[0] != found[1]
        pair = [[*boxes, extra][number] for number in found]
        assert pair[0].intersect(pair[1]) is not None
    if len(boxes) > 1:
        assert "cover" in str(tiling.missing_or_overlapping(boxes[:-1], shape))
        assert "overlap" in str(tiling.missing_or_overlapping([*boxes[:-1], boxes[0]], shape))


def test_overlaps_of_random_boxes_are_those_that_comparing_all_pairs_finds() -> None:
    random = np.random.default_rng(5)
    seen = set()
    for size, count, longest in itertools.product((6, 60, 4000), (2, 9, 200), (2, 5)):
        for _ in range(4):
            starts = random.integers(0, size, (count, 2))
            shapes = random.integers(0, longest, (count, 2))
            boxes = [Box(tuple(s), tuple(n)) for s, n in zip(starts.tolist(), shapes.tolist(), strict=True)]
            found = tiling.find_overlap(boxes)
            seen.add(found is None)
            assert (found is not None) == brute_force(boxes)
            if found is not None:
                assert boxes[found[0]].intersect(boxes[found[1]]) is not None
    assert seen == {True, False}


def test_scalars_overlap_and_empty_boxes_do_not() -> None:
    assert tiling.find_overlap([Box((), ()), Box((), ())]) == (0, 1)
    assert tiling.find_overlap([Box((0, 0), (0, 2)), Box((0, 0), (0, 2))]) is None
    assert tiling.find_overlap([]) is None
    assert tiling.missing_or_overlapping([Box((0,), (0,))], (0,)) is None


def test_a_whole_dimension_is_coded_as_minus_one() -> None:
    assert slices.WHOLE == -1
    assert slices.key_prefix("w", 2) == bytes.fromhex("007700010102")
