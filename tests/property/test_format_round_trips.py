"""Whatever is encoded decodes to itself, and the fast ways equal the plain ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptd.format import coding, columns, crc32c, dtypes, ordered_code, tensors
from ckptd.format.bundle_pb2 import BundleEntryProto
from ckptd.format.dtypes import DType
from ckptd.format.entry import Entry
from ckptd.format.index import Index, encode_index
from ckptd.format.names import tensor_key, tensor_name
from ckptd.format.slices import Box, TensorSlice, parse_key
from ckptd.format.state_file import CheckpointState
from ckptd.format.table import Table, encode_table
from tests.conformance.bundle_files import sample

examples = settings(max_examples=200, deadline=None)

INT64 = st.integers(0, (1 << 63) - 1)
KEYS = st.binary(max_size=12) | st.builds(lambda a, b: b"layer/with/a/long/name" + a + b, *2 * [st.binary(max_size=4)])
NAMES = KEYS.filter(bool).map(tensor_name)
STORABLE = [dtype for dtype in dtypes.ALL if dtype.array is not None]


@st.composite
def shaped_slices(draw: st.DrawFn) -> tuple[tuple[int, ...], TensorSlice]:
    shape = tuple(draw(st.lists(st.integers(1, 1 << 40), min_size=1, max_size=4)))
    extents: list[tuple[int, int | None]] = []
    for size in shape:
        start = draw(st.integers(0, size - 1))
        extents.append(draw(st.just((0, None)) | st.just((start, draw(st.integers(1, size - start))))))
    return shape, TensorSlice(tuple(extents))


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    return Entry(
        draw(st.integers(0, 200)),
        tuple(draw(st.lists(INT64, max_size=4))),
        draw(st.integers(0, (1 << 31) - 1)),
        draw(INT64),
        draw(INT64),
        draw(st.integers(0, (1 << 32) - 1)),
        tuple(item for _, item in draw(st.lists(shaped_slices(), max_size=3))),
    )


@examples
@given(st.integers(0, (1 << 64) - 1), st.binary(max_size=3))
def test_numbers_decode_to_themselves(value: int, rest: bytes) -> None:
    assert coding.decode_varint64(coding.encode_varint(value) + rest) == (value, coding.varint_size(value))
    assert ordered_code.decode_num(ordered_code.encode_num(value) + rest)[0] == value
    signed = value - (1 << 63)
    assert ordered_code.decode_snum(ordered_code.encode_snum(signed) + rest)[0] == signed


@examples
@given(st.integers(-(1 << 63), (1 << 63) - 1), st.integers(-(1 << 63), (1 << 63) - 1), st.binary(), st.binary())
def test_ordered_code_orders_as_its_values(one: int, two: int, first: bytes, second: bytes) -> None:
    assert (ordered_code.encode_snum(one) < ordered_code.encode_snum(two)) == (one < two)
    assert (ordered_code.encode_string(first) < ordered_code.encode_string(second)) == (first < second)
    assert ordered_code.decode_string(ordered_code.encode_string(first) + second)[0] == first


@examples
@given(st.binary(max_size=64), st.binary(max_size=64))
def test_checksums_combine_and_masks_undo(one: bytes, two: bytes) -> None:
    crc = crc32c.crc32c(one + two)
    assert crc32c.combine(crc32c.crc32c(one), crc32c.crc32c(two), len(two)) == crc
    assert crc32c.extend(crc32c.crc32c(one), two) == crc
    assert crc32c.unmask(crc32c.mask(crc)) == crc


@examples
@given(st.binary(min_size=1, max_size=20))
def test_any_bytes_travel_as_a_name(key: bytes) -> None:
    assert tensor_key(tensor_name(key)) == key


@examples
@given(st.dictionaries(KEYS, st.binary(max_size=300), max_size=60))
def test_a_table_decodes_to_its_items(items: dict[bytes, bytes]) -> None:
    ordered = sorted(items.items())
    table = Table.decode(encode_table(ordered))
    assert list(table.items()) == ordered
    assert all(table.get(key) == value for key, value in ordered)


@examples
@given(entries())
def test_an_entry_is_the_message_that_protobuf_makes_of_it(entry: Entry) -> None:
    data = entry.encode()
    assert Entry.decode(data) == entry
    message = BundleEntryProto.FromString(data)
    assert message.SerializeToString(deterministic=True) == data
    assert data.startswith(b"\x08" if entry.dtype else b"\x12")
    shape, dtype = entry.shape, entry.dtype
    if dtype and not entry.slices:
        one = [np.array([value], np.int64) for value in (entry.shard_id, entry.offset, entry.size, entry.crc32c)]
        shapes = np.array([shape], np.int64).reshape(1, len(shape))
        assert columns.entry_values(dtype, shapes, *one).split() == [data]


@examples
@given(NAMES, shaped_slices())
def test_a_slice_key_tells_name_and_slice(name: str, shaped: tuple[tuple[int, ...], TensorSlice]) -> None:
    shape, tensor_slice = shaped
    key = tensor_slice.key(name)
    assert parse_key(key) == (tensor_name(tensor_key(name)), tensor_slice)
    assert TensorSlice.parse(str(tensor_slice)) == tensor_slice
    assert Box.whole(shape).contains(tensor_slice.resolve(shape))
    starts = np.array([[start for start, _ in tensor_slice.extents]], np.int64)
    lengths = np.array([[-1 if length is None else length for _, length in tensor_slice.extents]], np.int64)
    assert columns.slice_keys(name, starts, lengths) == [key]


@examples
@given(st.integers(1, 1000), st.dictionaries(KEYS.filter(bool), entries(), max_size=20))
def test_an_index_holds_what_was_put_in(num_shards: int, items: dict[bytes, Entry]) -> None:
    data = encode_index(num_shards, items.items())
    index = Index.decode(data)
    assert index.num_shards == num_shards
    assert {key: Entry.decode(value) for key, value in index.raw_items() if key} == items
    assert encode_index(num_shards, [(key, index.entry(key)) for key in items]) == data


@st.composite
def arrays(draw: st.DrawFn) -> tuple[DType, np.ndarray[Any, Any]]:
    dtype = draw(st.sampled_from(STORABLE))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
    array = sample(dtype, shape, draw(st.integers(0, 100)))
    layout = draw(st.sampled_from(["plain", "transposed", "reversed"]))
    if layout == "transposed":
        array = array.T
    elif layout == "reversed" and array.ndim:
        array = array[::-1]
    return dtype, array


@examples
@given(arrays())
def test_an_array_decodes_to_itself(case: tuple[DType, np.ndarray[Any, Any]]) -> None:
    dtype, array = case
    encoded = tensors.encode(array, dtype)
    data = b"".join(encoded.parts)
    assert len(data) == encoded.size
    back = tensors.decode(data, dtype, array.shape, crc32c=encoded.crc32c)
    assert back.shape == array.shape
    if array.dtype == object:
        assert back.ravel().tolist() == array.ravel().tolist()
    else:
        assert back.tobytes() == array.tobytes()
        assert crc32c.crc32c(data) == encoded.crc32c


@examples
@given(st.lists(st.lists(st.binary(max_size=200), max_size=5), min_size=1, max_size=4))
def test_string_parts_combine_to_the_whole(parts: list[list[bytes]]) -> None:
    def array(elements: list[bytes]) -> np.ndarray[Any, Any]:
        made = np.empty(len(elements), object)
        made[:] = elements
        return made

    whole = tensors.encode(array([element for part in parts for element in part]))
    lengths_crc = payload_crc = payload_size = 0
    for section in map(tensors.string_sections, map(array, parts)):
        lengths_crc = crc32c.combine(lengths_crc, section.lengths_crc32c, section.lengths_crc_bytes)
        payload_crc = crc32c.combine(payload_crc, crc32c.crc32c(section.payload), len(section.payload))
        payload_size += len(section.payload)
    assert tensors.string_crc32c(lengths_crc, payload_crc, payload_size) == whole.crc32c


PATHS = st.text(st.characters(codec="utf-8"), max_size=20)


@examples
@given(PATHS, st.lists(PATHS, max_size=4), st.lists(st.floats(allow_nan=False), max_size=4), st.floats(allow_nan=False))
def test_a_state_file_decodes_to_its_state(path: str, paths: list[str], times: list[float], last: float) -> None:
    state = CheckpointState(path, tuple(paths), tuple(times), last)
    assert CheckpointState.decode(state.encode()) == state
