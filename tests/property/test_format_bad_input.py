"""Any byte string gives a value or one of our errors: quickly, within little memory, and never a wrong tensor.

The bounds of the specification are 100 ms and 64 MiB (or four times the input). CPU time is measured, so that a busy
machine does not fail the test, and three times the bound is allowed for slow ones.
"""

from __future__ import annotations

import contextlib
import time
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptd.errors import CorruptionError, InvalidRequestError, NotFoundError
from ckptd.format import coding, crc32c, dtypes, snappy, tensors
from ckptd.format.block import encode_block
from ckptd.format.entry import Entry
from ckptd.format.index import Index, encode_entries, encode_index
from ckptd.format.slices import TensorSlice, parse_key, parse_spec
from ckptd.format.state_file import CheckpointState
from ckptd.format.table import FOOTER_SIZE, TRAILER_SIZE, BlockHandle, Footer
from tests.conformance.bundle_files import FIXTURES, sample

examples = settings(max_examples=200, deadline=None)
SECONDS = 0.3
MEMORY_BYTES = 64 << 20

SOUND = [
    FIXTURES / "tf_unusual" / "base" / "v.index",
    FIXTURES / "tf_unusual" / "block_snappy_copies" / "v.index",
    FIXTURES / "tf_unusual" / "multi_blocks" / "v.index",
    FIXTURES / "tf" / "partitioned_grid" / "ckpt.index",
    FIXTURES / "tf" / "dtypes" / "ckpt.index",
    FIXTURES / "tf" / "object_max_shard" / "ckpt-1.index",
]
INDEXES = [path.read_bytes() for path in SOUND]


def bounded(call: Callable[[], object]) -> None:
    """Run one decoder; let only our errors pass, and check what it took."""
    tracemalloc.start()
    try:
        took = timed(call)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MEMORY_BYTES
    # Measuring memory slows everything down, and any one run may be hit by a garbage collection of the whole heap.
    if took >= SECONDS:
        took = min(timed(call) for _ in range(3))
    assert took < SECONDS


def timed(call: Callable[[], object]) -> float:
    began = time.thread_time()
    with contextlib.suppress(CorruptionError, InvalidRequestError, NotFoundError):
        call()
    return time.thread_time() - began


def read_everything(data: bytes) -> None:
    index = Index.decode(data, "m.index")
    for name in index.names():
        try:
            stored = index.tensor(name)
        except CorruptionError as error:
            if error.key != "m.index":
                raise AssertionError("an error does not name its file") from error
            continue
        assert sum(piece.box.num_elements for piece in stored.pieces) >= 0
        for piece in stored.pieces:
            assert 0 <= piece.shard_id < index.num_shards


def mutate(data: bytes, edits: list[tuple[float, int, int]], base: int = 0, end: int | None = None) -> bytearray:
    """Overwrite, insert or delete bytes at fractions of the way through part of the data."""
    out = bytearray(data)
    end = len(out) if end is None else end
    for where, kind, value in edits:
        at = min(base + int(where * (end - base)), len(out) - 1)
        if at < 0:
            break
        if kind == 0:
            out[at] = value
        elif kind == 1:
            out[at] ^= 1 << value % 8
        elif kind == 2:
            out.insert(at, value)
        else:
            del out[at : at + value % 9]
    return out


EDITS = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 3), st.integers(0, 255)), min_size=1, max_size=6
)


@examples
@given(st.sampled_from(INDEXES), EDITS)
def test_mutated_index_files(data: bytes, edits: list[tuple[float, int, int]]) -> None:
    bounded(lambda: read_everything(bytes(mutate(data, edits))))


def repaired(data: bytes, edits: list[tuple[float, int, int]]) -> bytes:
    """Change bytes inside blocks and make every checksum right again, so that the damage is met further in."""
    out = bytearray(data)
    footer = Footer.decode(data)
    for where, _, value in edits:
        out[int(where * (len(data) - FOOTER_SIZE))] = value
    position = 0
    ends = [footer.metaindex.offset, footer.index.offset, len(data) - FOOTER_SIZE]
    for end in ends:
        if end - TRAILER_SIZE > position:
            out[end - TRAILER_SIZE] = 0
            crc = crc32c.mask(crc32c.crc32c(out[position : end - 4]))
            out[end - 4 : end] = coding.encode_fixed32(crc)
        position = end
    return bytes(out)


@examples
@given(st.sampled_from([INDEXES[0], *INDEXES[3:]]), EDITS)
def test_mutated_blocks_whose_checksums_are_right(data: bytes, edits: list[tuple[float, int, int]]) -> None:
    bounded(lambda: read_everything(repaired(data, edits)))


@examples
@given(st.sampled_from(INDEXES), EDITS, st.integers(0, 1 << 30))
def test_mutated_entries_in_a_sound_table(data: bytes, edits: list[tuple[float, int, int]], pick: int) -> None:
    index = Index.decode(data)
    items = [(key, value) for key, value in index.raw_items() if key]
    chosen = pick % len(items)
    items[chosen] = (items[chosen][0], bytes(mutate(items[chosen][1], edits)))
    bounded(lambda: read_everything(encode_entries(index.num_shards, items)))


@examples
@given(st.binary(max_size=300))
def test_arbitrary_bytes(data: bytes) -> None:
    bounded(lambda: read_everything(data))
    bounded(lambda: read_everything(data + INDEXES[0][-FOOTER_SIZE:]))
    bounded(lambda: Entry.decode(data))
    bounded(lambda: parse_key(data))
    bounded(lambda: parse_key(b"\0" + data))
    bounded(lambda: CheckpointState.decode(data))
    bounded(lambda: snappy.decompress(data))


@examples
@given(st.text(max_size=40) | st.from_regex(r"([0-9]{1,3} ){0,3}(([0-9]{1,3},[0-9]{1,3}|-):?){0,3}"))
def test_arbitrary_slice_specs(text: str) -> None:
    bounded(lambda: parse_spec(text))


STORED = {
    name: tensors.encode(sample(dtypes.by_name(name), (2, 3)), dtypes.by_name(name))
    for name in ("float32", "string", "variant", "int4", "complex128")
}


@examples
@given(st.sampled_from(sorted(STORED)), EDITS, st.booleans())
def test_mutated_tensors_never_pass_their_checksum(
    name: str, edits: list[tuple[float, int, int]], big_endian: bool
) -> None:
    encoded = STORED[name]
    sound = b"".join(encoded.parts)
    data = bytes(mutate(sound, edits))

    def decode() -> None:
        array = tensors.decode(data, encoded.dtype, encoded.shape, crc32c=encoded.crc32c, big_endian=big_endian)
        assert data == sound, "damage passed the checksum"
        assert array.shape == encoded.shape

    bounded(decode)
    bounded(lambda: tensors.decode(data, encoded.dtype, encoded.shape, big_endian=big_endian))


@examples
@given(
    st.sampled_from([dtype.number for dtype in dtypes.ALL]),
    st.lists(st.integers(-2, (1 << 63) - 1), max_size=5),
    st.integers(-(1 << 40), (1 << 62)),
    st.binary(max_size=64),
)
def test_claims_of_any_size_allocate_nothing(number: int, shape: list[int], size: int, data: bytes) -> None:
    """An entry of thirty bytes can claim eight tebibytes."""
    dtype = dtypes.by_number(number)
    bounded(lambda: tensors.check_stored(dtype, tuple(shape), size))
    bounded(lambda: tensors.decode(data, dtype, tuple(shape)))
    claimed = Entry(number, tuple(max(0, n) for n in shape), 0, 0, abs(size))
    bounded(lambda: read_everything(encode_index(1, [(b"v", claimed)])))


BOMBS = {
    "a Snappy block that announces 4 GiB": (1, b"\xff\xff\xff\xff\x0f" + b"\xfe\x01\x00" * 300_000),
    "a Snappy block of copies": (1, b"\x80\x80\x80\x04\x00\0" + b"\xfe\x01\x00" * 100_000),
    "nothing but restart points": (0, bytes(400_000) + (99_999).to_bytes(4, "little")),
    "keys of 90 kB that share all but two bytes": (
        0,
        b"\x00\x90\xbf\x05\x00"
        + b"k" * 90_000
        + b"".join(b"\x90\xbf\x05\x02\x00" + n.to_bytes(2, "big") for n in range(2000))
        + b"\0\0\0\0\x01\0\0\0",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_small_files_that_stand_for_much(name: str) -> None:
    kind, block = BOMBS[name]
    bounded(lambda: read_everything(with_block(block, kind)))


def with_block(block: bytes, kind: int) -> bytes:
    """Return a table of the header, in a block of its own, and one more block."""

    def framed(contents: bytes, kind: int = 0) -> bytes:
        tail = contents + bytes((kind,))
        return tail + coding.encode_fixed32(crc32c.mask(crc32c.crc32c(tail)))

    header = framed(encode_block([(b"", b"\x08\x01")], 16))
    handles = [
        (b"", BlockHandle(0, len(header) - TRAILER_SIZE).encode()),
        (b"\xff", BlockHandle(len(header), len(block)).encode()),
    ]
    body = header + framed(block, kind)
    index = encode_block(handles, 1)
    footer = Footer(BlockHandle(0, 8), BlockHandle(len(body), len(index)))
    return body + framed(index) + footer.encode()


def test_a_list_of_slices_is_read_once_however_many_keys_look_like_one() -> None:
    """Keys of every rank and name that only look like slices may not each cost a pass over a long list."""
    listed = tuple(TensorSlice(((number, 1),)) for number in range(3000))
    items = {b"w": Entry(1, (3000,), slices=listed)}
    items |= {TensorSlice(((0, 1),) * rank).key("w"): Entry(1, (1,), 0, 0, 4) for rank in range(1, 200)}
    data = encode_index(1, items.items())
    bounded(lambda: read_everything(data))
    assert len(Index.decode(data).names()) == 199  # the first of them is listed, and w itself


@pytest.mark.parametrize("char", ["{", "[", '"', "a", "\\", "-", "#", "a:{", "model_checkpoint_path:'a' "])
def test_long_state_files_of_one_pattern(char: str) -> None:
    bounded(lambda: CheckpointState.decode((char * 2000).encode()))
