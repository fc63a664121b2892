from __future__ import annotations

import pytest

from ckptd.errors import CkptdError, CorruptionError, InvalidRequestError, NotFoundError
from ckptd.format import table
from ckptd.format.bundle_merge import MergeInput, merge_bundles
from ckptd.format.bundle_pb2 import BundleHeaderProto
from ckptd.format.entry import Entry
from ckptd.format.index import Index, encode_index
from ckptd.format.slices import TensorSlice
from ckptd.printable import printable

FLOAT = 1


def part(full: int, text: str, name: str = "w", dtype: int = FLOAT) -> dict[bytes, Entry]:
    """Entries of one slice of a vector."""
    piece = TensorSlice.parse(text)
    length = piece.resolve((full,)).shape[0]
    return {
        name.encode(): Entry(dtype, (full,), slices=(piece,)),
        piece.key(name): Entry(dtype, (length,), 0, 0, 4 * length),
    }


def whole(*names: str, shard: int = 0) -> dict[bytes, Entry]:
    return {name.encode(): Entry(FLOAT, (1,), shard, 0, 4) for name in names}


def bundle(prefix: str, entries: dict[bytes, Entry], num_shards: int = 1) -> MergeInput:
    return MergeInput(prefix, Index.decode(encode_index(num_shards, entries.items()), prefix))


def with_header(one: MergeInput, producer: int = 1, endianness: int = 0) -> MergeInput:
    assert one.index is not None
    items = list(one.index.raw_items())
    header = BundleHeaderProto(num_shards=1, endianness=endianness)
    header.version.producer = producer
    items[0] = (b"", header.SerializeToString())
    return MergeInput(one.prefix, Index.decode(table.encode_table(items)))


def test_data_files_are_numbered_in_the_order_in_which_entries_meet_them() -> None:
    two = bundle("two", {**whole("c", shard=0), **whole("a", shard=1)}, 2)
    merged = merge_bundles([two, bundle("one", whole("b"))], "out")
    assert merged.renames("out") == [
        ("two.data-00001-of-00002", "out.data-00000-of-00003"),
        ("two.data-00000-of-00002", "out.data-00001-of-00003"),
        ("one.data-00000-of-00001", "out.data-00002-of-00003"),
    ]
    index = Index.decode(merged.index)
    assert [index.entry(name.encode()).shard_id for name in index] == [0, 2, 1]


def test_slices_are_listed_in_the_order_of_merging_and_the_full_entry_keeps_its_odd_shard() -> None:
    merged = merge_bundles([bundle("x", whole("a")), bundle("y", part(3, "2,1")), bundle("z", part(3, "0,2"))])
    full = Index.decode(merged.index).entry(b"w")
    assert [str(piece) for piece in full.slices] == ["2,1", "0,2"]
    assert full.shard_id == 1  # nothing of it lies there; TensorFlow writes it so


def test_missing_inputs_are_skipped_only_where_that_is_allowed() -> None:
    there, gone = bundle("a", whole("a")), MergeInput("gone", None)
    assert merge_bundles([gone, there], allow_missing_files=True) == merge_bundles([there])
    with pytest.raises(NotFoundError) as caught:
        merge_bundles([there, gone])
    assert str(caught.value) == (
        "allow_missing_files was set to false and gone did not exist.NOT_FOUND: gone not found"
    )


REFUSED: list[tuple[list[MergeInput], type[CkptdError], str]] = [
    ([], NotFoundError, "At least one prefix checkpoint file must exist, but none existed."),
    ([MergeInput("gone", None)], NotFoundError, "At least one prefix checkpoint file must exist, but none existed."),
    (
        [bundle("a", whole("x")), bundle("b", whole("x"))],
        InvalidRequestError,
        "Duplicate tensor keyed by x encountered, when merging prefix: b",
    ),
    (
        [bundle("a", part(2, "0,1")), bundle("b", whole("w"))],
        InvalidRequestError,
        "Duplicate tensor keyed by w; attempting to merge in a non-slice bundle entry",
    ),
    (
        [bundle("a", whole("x")), with_header(bundle("b", whole("y")), endianness=1)],
        InvalidRequestError,
        "Merging bundles with conflicting endianness; inputs corrupted?",
    ),
    (
        [bundle("a", whole("x")), with_header(bundle("b", whole("y")), producer=2)],
        InvalidRequestError,
        "Merging bundles with different format versions: merged \x08\x01 vs. curr \x08\x02",
    ),
]


@pytest.mark.parametrize(("inputs", "kind", "message"), REFUSED)
def test_what_tensorflow_refuses_is_refused_in_its_words(
    inputs: list[MergeInput], kind: type[CkptdError], message: str
) -> None:
    with pytest.raises(kind) as caught:
        merge_bundles(inputs, allow_missing_files=True)
    assert str(caught.value) == printable(message, lines=True)  # the same words; bytes of a version as escapes


def test_a_data_file_that_no_entry_names_is_refused_before_it_is_counted() -> None:
    for empty in (bundle("b", {}), bundle("b", whole("y", shard=1), 2)):
        with pytest.raises(InvalidRequestError, match=r"no tensor of b lies in b\.data-00000-of-"):
            merge_bundles([bundle("a", whole("x")), empty])


def test_merging_onto_an_input_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="onto itself"):
        merge_bundles([bundle("a", whole("x")), bundle("b", whole("y"))], "b")


def test_parts_that_do_not_fit_each_other_are_refused() -> None:
    first = bundle("a", part(4, "0,2"))
    for other in (part(4, "1,2"), part(5, "2,2"), part(4, "2,2", dtype=3)):
        with pytest.raises(InvalidRequestError, match="'w'"):
            merge_bundles([first, bundle("b", other)])


def test_damaged_entries_are_corruption_and_not_a_crash() -> None:
    with pytest.raises(CorruptionError, match="out of range"):
        merge_bundles([bundle("a", whole("x", shard=3))])
    items = [(b"", b"\x08\x01"), (b"x", b"\xff")]
    with pytest.raises(CorruptionError, match="cannot be parsed"):
        merge_bundles([MergeInput("a", Index.decode(table.encode_table(items)))])
