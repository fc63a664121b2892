"""Where a box of a tensor lies: slices that have nothing of it are not read, but what is listed is checked."""

from __future__ import annotations

import pytest

from ckptd.errors import CorruptionError
from ckptd.format.entry import Entry
from ckptd.format.index import Index, encode_index
from ckptd.format.slices import Box, TensorSlice

FLOAT = 1
COLUMNS = 4
FEW_AND_MANY = pytest.mark.parametrize("count", [5, 40])  # of slices: looked at one by one, and together


def rows(number: int) -> TensorSlice:
    return TensorSlice(((2 * number, 2), (0, None) if number % 2 else (0, COLUMNS)))


def entries(count: int) -> dict[bytes, Entry]:
    """Entries of a tensor `w` of [2 * count, 4] that is stored in slices of two rows."""
    size = 2 * COLUMNS * 4
    items = {b"w": Entry(FLOAT, (2 * count, COLUMNS), slices=tuple(map(rows, range(count))))}
    return items | {
        rows(number).key("w"): Entry(FLOAT, (2, COLUMNS), 0, number * size, size, number) for number in range(count)
    }


def index_of(items: dict[bytes, Entry]) -> Index:
    return Index.decode(encode_index(1, items.items()))


@FEW_AND_MANY
def test_of_a_box_those_slices_are_found_that_have_some_of_it(count: int) -> None:
    index = index_of(entries(count))
    whole = index.tensor("w")
    assert len(whole.pieces) == count
    for box in (Box((3, 1), (3, 2)), Box((0, 0), (1, 1)), Box((2, 0), (2, COLUMNS)), Box((0, 0), (2 * count, COLUMNS))):
        found = index.tensor("w", box)
        assert found.pieces == tuple(piece for piece in whole.pieces if piece.box.intersect(box))
        assert (found.name, found.dtype, found.shape, found.is_sliced) == ("w", whole.dtype, whole.shape, True)


@FEW_AND_MANY
def test_a_box_that_does_not_fit_is_the_callers_to_refuse(count: int) -> None:
    index = index_of(entries(count))
    assert index.tensor("w", Box((0,), (1,))) == index.tensor("w")
    assert index.tensor("w", Box((2 * count, 0), (1, 1))).pieces == ()
    assert index.tensor("w", Box((1 << 70, 0), (1, 1))).pieces == ()
    assert index.tensor("w", Box((-(1 << 70), 0), (1, 1))).pieces == ()


@FEW_AND_MANY
@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (TensorSlice(((3, 2), (0, COLUMNS))), "Overlapping slices"),
        (TensorSlice(((0, 2), (0, COLUMNS))), "listed twice"),
        (TensorSlice(((1 << 40, 2), (0, COLUMNS))), "out of bounds"),
        (TensorSlice(((4, 2), (1, None))), "out of bounds"),
    ],
)
def test_what_is_wrong_with_the_list_is_found_whatever_box_is_asked_for(
    count: int, odd: TensorSlice, words: str
) -> None:
    items = entries(count)
    listed = items[b"w"]
    items[b"w"] = Entry(listed.dtype, listed.shape, slices=(*listed.slices[:-1], odd))
    with pytest.raises(CorruptionError, match=words):
        index_of(items).tensor("w", Box((0, 0), (1, 1)))


@FEW_AND_MANY
def test_entries_of_slices_are_read_only_where_they_have_some_of_the_box(count: int) -> None:
    items = entries(count)
    del items[rows(count - 1).key("w")]
    index = index_of(items)
    assert len(index.tensor("w", Box((0, 0), (4, COLUMNS))).pieces) == 2
    with pytest.raises(CorruptionError, match="is listed but has no entry"):
        index.tensor("w", Box((2 * count - 1, 0), (1, 1)))
