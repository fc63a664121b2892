"""A snapshot is the caller's arrays as they were, in the form of the file."""

from __future__ import annotations

import threading

import ml_dtypes
import numpy as np
import pytest

from ckptd.client.capture import summing
from ckptd.client.capture.buffers import RoomPool
from ckptd.client.capture.inventory import Inventory
from ckptd.client.capture.memory_layout import place
from ckptd.client.capture.snapshot import Snapshot
from ckptd.client.slice import Slice
from ckptd.errors import InvalidRequestError, SessionAbortedError
from ckptd.format import crc32c, dtypes, tensors
from ckptd.format.slices import Box
from tests import seams


def stored(snapshot, item, offset=0, size=None):
    size = int(snapshot.manifest.sizes[item]) - offset if size is None else size
    begin = int(snapshot.offsets[item]) + offset
    return bytes(snapshot.memory[begin : begin + size])


class WithArray:
    """What jax arrays offer."""

    def __init__(self, array):
        self._array = array

    def __array__(self, dtype=None, copy=None):
        return self._array


class WithDLPack:
    """What an array of a library that numpy has never heard of offers."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **arguments):
        return self._array.__dlpack__(**arguments)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


FLOATS = np.arange(6, dtype=np.float32).reshape(2, 3)
TAKEN = [
    pytest.param(FLOATS, FLOATS, id="array"),
    pytest.param(FLOATS.T, np.ascontiguousarray(FLOATS.T), id="transposed"),
    pytest.param(FLOATS.astype(">f4"), FLOATS, id="big-endian"),
    pytest.param(FLOATS[:, ::2], np.ascontiguousarray(FLOATS[:, ::2]), id="strided"),
    pytest.param(np.float64(2.5), np.array(2.5), id="numpy scalar"),
    pytest.param(7, np.array(7, np.int64), id="int"),
    pytest.param(True, np.array(True), id="bool"),
    pytest.param(1.5, np.array(1.5), id="float"),
    pytest.param(2j, np.array(2j), id="complex"),
    pytest.param([1, 2], np.array([1, 2]), id="list"),
    pytest.param([], np.array([]), id="empty list"),
    pytest.param("héllo", np.array("héllo".encode(), object), id="str"),
    pytest.param(b"a\0", np.array(b"a\0", object), id="bytes with a trailing zero"),
    pytest.param(["a", b"b\0"], np.array([b"a", b"b\0"], object), id="list of strings"),
    pytest.param(np.array(["a", "bc"]), np.array([b"a", b"bc"], object), id="numpy text"),
    pytest.param(WithArray(FLOATS.astype(ml_dtypes.bfloat16)), FLOATS.astype(ml_dtypes.bfloat16), id="__array__"),
    pytest.param(WithDLPack(FLOATS), FLOATS, id="DLPack"),
    pytest.param(np.zeros((3, 0)), np.zeros((3, 0)), id="no elements"),
    pytest.param(np.array([(1,)], [("qint8", "i1")]), np.array([(1,)], [("qint8", "i1")]), id="quantized"),
    *[
        pytest.param(np.ones((2, 2), dtype.array), np.ones((2, 2), dtype.array), id=dtype.name)
        for dtype in dtypes.ALL
        if dtype.width and "q" not in dtype.name
    ],
]


@pytest.mark.parametrize(("value", "expected"), TAKEN)
def test_what_is_taken_and_how_it_is_stored(value, expected):
    snapshot = Snapshot.take({"t": value}, RoomPool())
    encoded = tensors.encode(np.asarray(expected))
    assert snapshot.manifest.full_shapes == (encoded.shape,)
    assert snapshot.manifest.dtypes == (encoded.dtype.number,)
    assert stored(snapshot, 0) == b"".join(map(bytes, encoded.parts))
    assert snapshot.size_bytes == encoded.size


REFUSED = [
    pytest.param({"t": object()}, "'t': object can't be saved", id="object"),
    pytest.param({"t": np.array([object()])}, "'t'.*type object", id="object array"),
    pytest.param({"t": np.array(["2020-01-01"], "M8[D]")}, "'t'.*datetime64", id="dates"),
    pytest.param({"t": [1, "a", None]}, "'t'", id="mixed"),
    pytest.param({"t": [[1], [1, 2]]}, "'t'", id="ragged"),
    pytest.param({"t": 1 << 70}, "'t'", id="too large an int"),
    pytest.param({"t": np.ma.masked_array([1, 2], [0, 1])}, "'t': a masked array", id="masked"),
    pytest.param({"t": None}, "'t': NoneType", id="None"),
    pytest.param({7: FLOATS}, "name of a tensor is a str, not 7", id="name"),
    pytest.param({"": FLOATS}, "needs a name", id="empty name"),
    pytest.param({"\0x": FLOATS}, "zero byte", id="a slice's name"),
    pytest.param([FLOATS], "mapping", id="no mapping"),
    pytest.param({"t": Slice(FLOATS, (4, 3), (3, 0))}, r"'t'.*\[2, 3\] at \[3, 0\] leaves.*\[4, 3\]", id="beyond"),
    pytest.param({"t": Slice(FLOATS, (4,), (0,))}, "'t'.*rank", id="rank"),
    pytest.param(
        {"t": [Slice(FLOATS, (4, 3), (0, 0)), Slice(FLOATS, (5, 3), (2, 0))]}, "'t' disagree", id="full shapes differ"
    ),
]


@pytest.mark.parametrize(("arrays", "message"), REFUSED)
def test_what_cannot_be_saved_is_named_and_leaves_nothing(arrays, message):
    pool = RoomPool()
    before = pool.take(1 << 20)
    before.release()
    with pytest.raises(InvalidRequestError, match=message):
        Snapshot.take(arrays, pool)
    assert pool.take(1) is before


def test_a_slice_needs_whole_numbers():
    with pytest.raises(InvalidRequestError, match="whole numbers"):
        Slice(FLOATS, (4.5, 3), (0, 0))


def test_the_callers_arrays_may_be_changed_at_once():
    array, strings = FLOATS.copy(), np.array([b"old"], object)
    snapshot = Snapshot.take({"a": array, "s": strings}, RoomPool())
    array[:] = -1
    strings[0] = b"new"
    assert stored(snapshot, 0) == FLOATS.tobytes()
    assert stored(snapshot, 1).endswith(b"old")


def test_slices_become_parts_of_one_tensor():
    parts = [Slice(FLOATS, (4, 3), (0, 0)), Slice(-FLOATS, (4, 3), (2, 0))]
    manifest = Snapshot.take({"w": parts, "v": Slice(FLOATS, (2, 3), (0, 0))}, RoomPool()).manifest
    assert (manifest.names, manifest.full_shapes) == (("w", "v"), ((4, 3), (2, 3)))
    assert [manifest.box(row) for row in range(3)] == [
        Box((0, 0), (2, 3)),
        Box((2, 0), (2, 3)),
        Box((0, 0), (2, 3)),
    ]


def test_any_range_of_any_part_can_be_taken():
    snapshot = Snapshot.take({"s": ["ab", "", "c" * 200], "n": FLOATS}, RoomPool())
    for item in (0, 1):
        whole = stored(snapshot, item)
        assert len(whole) == snapshot.manifest.sizes[item]
        for start in range(len(whole)):
            for size in (0, 1, 3, len(whole) - start):
                assert stored(snapshot, item, start, min(size, len(whole) - start)) == whole[start : start + size]


def test_large_arrays_are_copied_in_stripes_by_several_threads(monkeypatch):
    seams.COPY_PARALLEL_BYTES.put(monkeypatch, 1000)
    seams.COPY_STRIPE_BYTES.put(monkeypatch, 300)
    seams.NUM_COPIERS.put(monkeypatch, 3)
    arrays = {
        "a": np.arange(5000, dtype=np.int16).reshape(1, 50, 100),
        "b": np.asfortranarray(np.random.default_rng(0).random((37, 11))),
        "c": np.array(3.0),
        "d": np.arange(400, dtype=np.int8),
    }
    snapshot = Snapshot.take(arrays, RoomPool())
    for item, array in enumerate(arrays.values()):
        assert stored(snapshot, item) == np.ascontiguousarray(array).tobytes()
        assert snapshot.sum()[item] == crc32c.crc32c(stored(snapshot, item))


def test_short_arrays_that_lie_side_by_side_are_copied_together(monkeypatch):
    rng = np.random.default_rng(1)
    arrays = {
        **{f"whole/{n}": rng.random((n % 7, 3)).astype(np.float32) for n in range(300)},
        "bfloat16": np.arange(12, dtype=ml_dtypes.bfloat16).reshape(3, 4),
        "scalar": np.array(7.5),
        "turned": rng.random((5, 3)).T,
        "reversed": np.arange(10)[::-1],
        "big-endian": np.arange(6, dtype=">i4"),
        "string": ["a", "bc"],
        "long": rng.random(30_000),
        "flag": np.array([True, False]),
    }
    gathered = []
    real = seams.GATHER.value
    seams.GATHER.put(monkeypatch, lambda sources, to: gathered.append(len(sources)) or real(sources, to))
    snapshot = Snapshot.take(arrays, RoomPool())
    assert len(gathered) <= 4
    assert sum(gathered) > 250
    for item, array in enumerate(arrays.values()):
        if isinstance(array, np.ndarray):
            little = array.astype(array.dtype.newbyteorder("<")) if array.dtype.byteorder == ">" else array
            assert stored(snapshot, item) == np.ascontiguousarray(little).tobytes()


def test_memory_is_used_again():
    pool = RoomPool()
    first = Snapshot.take({"a": np.zeros(1000)}, pool)
    address = np.frombuffer(first.memory, np.uint8).ctypes.data
    assert address % 4096 == 0
    first.release()
    first.release()
    second = Snapshot.take({"a": np.ones(1000)}, pool)
    assert np.frombuffer(second.memory, np.uint8).ctypes.data == address
    third = Snapshot.take({"a": np.ones(1000)}, pool)
    assert np.frombuffer(third.memory, np.uint8).ctypes.data != address


def test_memory_is_given_back_only_when_nothing_is_copied_there_any_more():
    pool = RoomPool()
    inventory = Inventory.of({"a": np.ones(1000)})
    room = pool.take(8000)
    snapshot = Snapshot(inventory, place(inventory.manifest), room)
    releasing = threading.Thread(target=snapshot.release)
    releasing.start()
    assert pool.take(8000) is not room
    snapshot.capture()
    releasing.join(60)
    assert pool.take(8000) is room


def test_who_waits_for_a_copy_that_fails_hears_of_it():
    inventory = Inventory.of({"a": np.ones(1000)})
    room = RoomPool().take(8000)
    snapshot = Snapshot(inventory, place(inventory.manifest), room)
    room.data = room.data[:100]
    with pytest.raises(ValueError, match="broadcast"):
        snapshot.capture()
    with pytest.raises(SessionAbortedError, match="could not be copied"):
        snapshot.wait(60)


def test_checksums_are_those_of_the_stored_form():
    arrays = {
        "a": FLOATS.T,
        "s": ["ab", "", "c" * 200],
        "e": np.zeros((0, 3)),
        "n": np.array(3.0),
        "no strings": np.zeros((2, 0), object),
        "after": np.array(5),
    }
    snapshot = Snapshot.take(arrays, RoomPool())
    lengths = int(snapshot.manifest.lengths_sizes[1])
    assert snapshot.sum().tolist() == [
        crc32c.crc32c(stored(snapshot, 0)),
        crc32c.crc32c(stored(snapshot, 1, 0, lengths)),
        crc32c.crc32c(stored(snapshot, 1, lengths + 4)),
        0,
        crc32c.crc32c(stored(snapshot, 3)),
        0,
        0,
        crc32c.crc32c(stored(snapshot, 5)),
    ]


def test_the_pool_keeps_few_buffers_and_prefers_the_smallest_that_fits():
    pool = RoomPool(keep=2)
    small, middle, large = (pool.take(size << 20) for size in (1, 3, 9))
    for buffer in (large, small, middle):
        buffer.release()
    assert pool.take(2 << 20) is middle
    assert pool.take(2 << 20) is large
    fresh = pool.take(100)
    assert all(fresh is not known for known in (small, middle, large))


class FakeTorchTensor:
    """The few methods of a torch tensor that are used; `dtype` prints as torch's do."""

    def __init__(self, array, dtype):
        self._array, self.dtype = array, dtype

    def detach(self):
        return self

    cpu = contiguous = resolve_conj = resolve_neg = detach

    def view(self, dtype):
        return FakeTorchTensor(self._array.view(dtype), dtype)

    def numpy(self):
        if str(self.dtype) == "torch.bfloat16":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self._array


FakeTorchTensor.__module__ = "torch"


def test_a_torch_tensor_of_bfloat16_keeps_its_bits(monkeypatch):
    import sys
    import types

    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(int16=np.int16, uint8=np.uint8))
    array = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    snapshot = Snapshot.take(
        {"t": FakeTorchTensor(array, "torch.bfloat16"), "f": FakeTorchTensor(FLOATS, "torch.f")}, RoomPool()
    )
    assert dtypes.by_number(snapshot.manifest.dtypes[0]).name == "bfloat16"
    assert stored(snapshot, 0) == array.tobytes()
    assert stored(snapshot, 1) == FLOATS.tobytes()


def test_many_threads_take_the_same_sums_as_one(monkeypatch):
    seams.SUM_PARALLEL_BYTES.put(monkeypatch, 0)
    seams.SUM_SMALL_BYTES.put(monkeypatch, 0)
    seams.SUM_BUNCH_BYTES.put(monkeypatch, 1000)
    random = np.random.default_rng(0)
    arrays = {f"w{size}": random.integers(0, 256, size, np.uint8) for size in (0, 1, 7, 999, 1000, 1001, 2000, 54321)}
    snapshot = Snapshot.take(
        {**arrays, "words": ["some", "strings", "x" * 3000], "none": np.zeros(0, object)}, RoomPool()
    )
    one, many = (summing.sum_parts(snapshot.manifest, snapshot.offsets, snapshot.memory, threads) for threads in (1, 3))
    np.testing.assert_array_equal(one, many)
    assert len(set(one.tolist())) > len(arrays)
