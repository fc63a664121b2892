"""Reading boxes of stored tensors, over a store that notes what it was asked for."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from ckptd.engine.reading.bundle import Bundle, Wanted
from ckptd.errors import CkptdError, CorruptionError, InvalidRequestError, NotFoundError
from ckptd.format import dtypes
from ckptd.format.entry import Entry
from ckptd.format.index import encode_index
from ckptd.format.slices import Box, TensorSlice
from ckptd.storage.base import AccessPattern
from ckptd.storage.locations import open_store
from tests import seams
from tests.conformance.bundle_files import BundleWriter, sample


class Noting:
    """Objects that remember which byte ranges were read."""

    def __init__(self, store):
        self._store = store
        self.ranges = []
        self.access = store.access
        self.get, self.stat, self.location = store.get, store.stat, store.location

    def read_into(self, key, offset, *into):
        self.ranges.append((offset, sum(map(len, into))))
        self._store.read_into(key, offset, *into)


def open_bundle(prefix):
    objects = Noting(open_store(str(prefix.parent)))
    return Bundle.open(objects, prefix.name), objects


STORABLE = [dtype for dtype in dtypes.ALL if dtype.array is not None and not dtype.is_variant]
GRID = [Box((0, 0), (2, 3)), Box((0, 3), (2, 4)), Box((2, 0), (3, 5)), Box((2, 5), (3, 2))]
BOXES = [Box((0, 0), (5, 7)), Box((1, 2), (3, 3)), Box((4, 6), (1, 1)), Box((0, 0), (5, 1)), Box((2, 0), (0, 7))]


@pytest.mark.parametrize("dtype", STORABLE, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("boxes", [[Box.whole((5, 7))], GRID], ids=["whole", "grid"])
def test_any_box_of_any_dtype_is_read_however_it_was_sliced(tmp_path, dtype, boxes):
    array = sample(dtype, (5, 7))
    writer = BundleWriter(tmp_path / "m", num_shards=2)
    writer.add_boxes("t", array, boxes, dtype=dtype)
    bundle, _ = open_bundle(writer.finish())
    for box in BOXES:
        wanted = array[box.within(Box.whole(array.shape))]
        read = bundle.read("t", box)
        assert read.dtype == wanted.dtype
        assert read.tolist() == wanted.tolist() if dtype.is_string else read.tobytes() == wanted.tobytes()
        into = np.zeros(box.shape, array.dtype)
        assert bundle.read("t", box, into) is into
        assert into.tobytes() == wanted.tobytes() if not dtype.is_string else into.tolist() == wanted.tolist()


def test_scalars_and_empty_tensors_keep_their_shape(tmp_path):
    writer = BundleWriter(tmp_path / "m")
    for name, array in {"a": np.float64(2.5), "b": np.zeros((0, 3), np.int8), "c": np.array(b"x", object)}.items():
        writer.add(name, np.asarray(array))
    bundle, _ = open_bundle(writer.finish())
    assert bundle.read("a").shape == ()
    assert bundle.read("a")[()] == 2.5
    assert bundle.read("b").shape == (0, 3)
    assert bundle.read("c")[()] == b"x"


def test_large_tensors_are_read_in_parts_by_several_threads(tmp_path, monkeypatch):
    seams.PARALLEL_READ_BYTES.put(monkeypatch, 1 << 16)
    array = np.random.default_rng(1).integers(0, 255, (1000, 300), dtype=np.uint8)
    writer = BundleWriter(tmp_path / "m")
    writer.add("t", array)
    bundle, _ = open_bundle(writer.finish())
    seams.READ_BLOCK_BYTES.put(monkeypatch, 1 << 14)
    assert (bundle.read("t") == array).all()
    assert (bundle.read("t", Box((10, 0), (900, 300))) == array[10:910]).all()


LAYOUTS = {
    "C order": lambda shape, dtype: np.zeros(shape, dtype),
    "Fortran order": lambda shape, dtype: np.zeros(shape, dtype, order="F"),
    "every second column": lambda shape, dtype: np.zeros((shape[0], 2 * shape[1]), dtype)[:, ::2],
    "backwards": lambda shape, dtype: np.zeros(shape, dtype)[::-1],
    "big-endian": lambda shape, dtype: np.zeros(shape, np.dtype(dtype).newbyteorder(">")),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_arrays_of_any_layout_are_filled_in_place(tmp_path, layout):
    array = np.arange(35, dtype=np.float32).reshape(5, 7)
    writer = BundleWriter(tmp_path / "m")
    writer.add_boxes("t", array, GRID)
    bundle, _ = open_bundle(writer.finish())
    into = LAYOUTS[layout]((5, 7), "<f4")
    assert bundle.read("t", into=into) is into
    assert (into == array).all()


def test_bytes_go_straight_into_the_callers_memory(tmp_path):
    array = np.arange(4096, dtype=np.float32)
    writer = BundleWriter(tmp_path / "m")
    writer.add("t", array)
    prefix = writer.finish()
    into = np.zeros_like(array)
    seen = []

    class Watching(Noting):
        def read_into(self, key, offset, *views):
            seen.extend(np.shares_memory(np.frombuffer(view, np.uint8), into) for view in views)
            super().read_into(key, offset, *views)

    Bundle.open(Watching(open_store(str(tmp_path))), prefix.name).read("t", into=into)
    assert seen == [True]


def test_neighbours_go_by_one_request_each_into_its_own_array(tmp_path):
    arrays = {"a": np.arange(5000, dtype=np.float32), "b": np.arange(7, dtype=np.int64), "c": np.ones((40, 50))}
    writer = BundleWriter(tmp_path / "m")
    for name, array in arrays.items():
        writer.add(name, array)
    bundle, objects = open_bundle(writer.finish())
    into = {name: np.zeros_like(array) for name, array in arrays.items()}
    bundle.read_many([Wanted("a", into=into["a"]), Wanted("c", into=into["c"])])  # over b: asking twice takes longer
    assert objects.ranges == [(0, 20_000 + 56 + 16_000)]
    assert (into["a"] == arrays["a"]).all()
    assert (into["c"] == arrays["c"]).all()


def test_only_the_rows_asked_for_are_read(tmp_path):
    array = np.zeros((1000, 1000), np.float32)
    writer = BundleWriter(tmp_path / "m")
    writer.add("t", array)
    bundle, objects = open_bundle(writer.finish())
    bundle.read("t", Box((10, 0), (5, 1000)))
    assert objects.ranges == [(10 * 4000, 5 * 4000)]


def test_neighbours_are_fetched_together_and_each_is_checked(tmp_path):
    arrays = {f"t{n:03}": np.full(5, n, np.float32) for n in range(300)}
    arrays["large"] = np.arange(50_000, dtype=np.float32)
    arrays["words"] = np.array([b"a", b"bc"], object)
    writer = BundleWriter(tmp_path / "m")
    for name, array in arrays.items():
        writer.add(name, array)
    prefix = writer.finish()
    bundle, objects = open_bundle(prefix)
    read = bundle.read_many([Wanted(name) for name in arrays])
    assert [one.tolist() for one in read] == [array.tolist() for array in arrays.values()]
    assert sorted(objects.ranges) == [(0, 206_000), (206_000, 9)]  # strings come by themselves
    shard = tmp_path / "m.data-00000-of-00001"
    data = bytearray(shard.read_bytes())
    data[2000] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CorruptionError, match="checksum of tensor 't100' does not match"):
        bundle.read_many([Wanted(name) for name in arrays])


def many(tmp_path, count=100):
    """Return a checkpoint of many short tensors, among them some that are not plain, and its arrays."""
    arrays = {f"t{n:03}": np.full((n % 7, 3), n, ml_dtypes.bfloat16 if n % 2 else np.int64) for n in range(count)}
    arrays |= {"scalar": np.array(2.5), "words": np.array([b"a", b"bc"], object), "grid": np.eye(6)}
    writer = BundleWriter(tmp_path / "m", num_shards=2)
    for n, (name, array) in enumerate(arrays.items()):
        if name == "grid":
            writer.add_boxes(name, array, [Box((0, 0), (3, 6)), Box((3, 0), (3, 6))])
        else:
            writer.add(name, array, shard=n % 2)
    return open_bundle(writer.finish()), arrays


def test_many_at_once_are_what_each_alone_is(tmp_path):
    (bundle, _), arrays = many(tmp_path)
    into = {
        "t003": np.zeros((3, 3), ml_dtypes.bfloat16),
        "t018": np.zeros((3, 4), np.int64).T,  # laid out otherwise
        "scalar": np.zeros(()),
    }
    asked = [Wanted(name, into=into.get(name)) for name in reversed(arrays)]
    asked += [Wanted("t004"), Wanted("t004", Box((1, 0), (2, 3))), Wanted("t004")]
    for one, read in zip(asked, bundle.read_many(asked), strict=True):
        alone = bundle.read(one.name, one.box)
        assert read.dtype == alone.dtype
        assert read.shape == alone.shape
        assert read.tolist() == alone.tolist()
        assert one.into is None or read is one.into
        assert read.flags.owndata or one.into is not None or read.size == 0
    assert all(array.tolist() == arrays[name].tolist() for name, array in into.items())


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (Wanted("t9"), NotFoundError, "Key t9 not found"),
        (Wanted("t004", into=np.zeros((4, 2), np.int64)), InvalidRequestError, "another shape"),
        (Wanted("t004", into=np.zeros((4, 3), np.int32)), InvalidRequestError, "another dtype"),
        (Wanted("t004", Box((4, 0), (1, 3))), InvalidRequestError, "out of bounds"),
    ],
)
def test_what_is_wrong_among_many_is_refused_as_it_is_alone(tmp_path, wrong, error, words):
    (bundle, objects), arrays = many(tmp_path)
    with pytest.raises(error, match=words):
        bundle.read_many([*(Wanted(name) for name in arrays), wrong])
    assert not objects.ranges


def test_a_file_that_is_gone_or_short_is_told_of_when_many_are_read(tmp_path):
    (bundle, _), arrays = many(tmp_path)
    shard = tmp_path / "m.data-00001-of-00002"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    with pytest.raises(CorruptionError, match="reaches beyond the end of its data file"):
        bundle.read_many([Wanted(name) for name in arrays])
    shard.unlink()
    bundle = Bundle.open(open_store(str(tmp_path)), "m")
    with pytest.raises(CorruptionError, match="data file is missing"):
        bundle.read_many([Wanted(name) for name in arrays])


REFUSED = [
    pytest.param({"box": Box((0,), (5,))}, r"Mismatching ranks: shape = \[5,7\]", id="rank"),
    pytest.param({"box": Box((0, 0), (6, 7))}, r"Extent in dimension 0 out of bounds: shape = \[5,7\]", id="beyond"),
    pytest.param({"box": Box((-1, 0), (2, 7))}, "out of bounds", id="negative start"),
    pytest.param({"into": np.zeros((7, 5), np.float32)}, r"'t' has another shape.*\[5, 7\].*\[7, 5\]", id="shape"),
    pytest.param(
        {"into": np.zeros((5, 7), np.int32)}, r"'t' of shape \[5, 7\] has another dtype.*float32.*int32", id="dtype"
    ),
    pytest.param({"into": np.broadcast_to(np.float32(0), (5, 7))}, "'t' is read-only", id="read-only"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_what_does_not_fit_is_refused_by_name(tmp_path, arguments, message):
    writer = BundleWriter(tmp_path / "m")
    writer.add("t", np.zeros((5, 7), np.float32))
    bundle, _ = open_bundle(writer.finish())
    with pytest.raises(InvalidRequestError, match=message):
        bundle.read("t", **arguments)


def test_a_missing_tensor_is_named(tmp_path):
    writer = BundleWriter(tmp_path / "m")
    writer.add("t", np.zeros(3))
    bundle, _ = open_bundle(writer.finish())
    with pytest.raises(NotFoundError, match="Key nope not found in checkpoint"):
        bundle.read("nope")


@pytest.mark.parametrize("flip", [0, 17, 139])
def test_a_flipped_byte_is_noticed_and_placed(tmp_path, flip):
    writer = BundleWriter(tmp_path / "m")
    writer.add("first", np.zeros(10, np.int8))
    writer.add("t", np.arange(35, dtype=np.float32))
    prefix = writer.finish()
    shard = tmp_path / "m.data-00000-of-00001"
    data = bytearray(shard.read_bytes())
    data[10 + flip] ^= 1
    shard.write_bytes(data)
    bundle, _ = open_bundle(prefix)
    with pytest.raises(CorruptionError, match="'t'") as caught:
        bundle.read("t")
    assert (caught.value.key, caught.value.offset) == ("m.data-00000-of-00001", 10)
    assert bundle.read("first").tolist() == [0] * 10


def test_a_box_over_whole_pieces_is_verified_too(tmp_path):
    writer = BundleWriter(tmp_path / "m")
    writer.add_boxes("t", np.arange(35, dtype=np.float32).reshape(5, 7), GRID)
    prefix = writer.finish()
    shard = tmp_path / "m.data-00000-of-00001"
    data = bytearray(shard.read_bytes())
    data[3] ^= 1  # in the first piece, rows 0 to 1, columns 0 to 2
    shard.write_bytes(data)
    bundle, _ = open_bundle(prefix)
    with pytest.raises(CorruptionError, match="checksum of tensor 't'"):
        bundle.read("t", Box((0, 0), (2, 3)))
    assert bundle.read("t", Box((2, 0), (3, 7)))[0, 0] == 14.0


GIB = 1 << 30
HOSTILE = {
    "8 TiB in one entry": [(b"t", Entry(1, (2 << 40,), size=8 << 40))],
    "beyond the end": [(b"t", Entry(3, (4,), offset=90, size=16))],
    "slices that share bytes": [
        (b"t", Entry(4, (64 * 100,), slices=tuple(TensorSlice(((n * 64, 64),)) for n in range(100)))),
        *((TensorSlice(((n * 64, 64),)).key("t"), Entry(4, (64,), size=64)) for n in range(100)),
    ],
    "a huge tensor of two small slices": [
        (b"t", Entry(4, (8 * GIB,), slices=(TensorSlice(((0, 8),)), TensorSlice(((8, 8),))))),
        (TensorSlice(((0, 8),)).key("t"), Entry(4, (8,), size=8)),
        (TensorSlice(((8, 8),)).key("t"), Entry(4, (8,), offset=8, size=8)),
    ],
}


@pytest.mark.parametrize("case", HOSTILE)
def test_an_index_cannot_make_a_reader_take_memory_that_no_file_fills(tmp_path, case, monkeypatch):
    (tmp_path / "m.index").write_bytes(encode_index(1, HOSTILE[case]))
    (tmp_path / "m.data-00000-of-00001").write_bytes(bytes(100))
    real = np.empty
    taken = []

    def counting(shape, dtype=float, **more):
        taken.append(int(np.prod(shape, dtype=float)) * np.dtype(dtype).itemsize)
        assert taken[-1] <= 1 << 20
        return real(shape, dtype, **more)

    monkeypatch.setattr(np, "empty", counting)
    bundle, _ = open_bundle(tmp_path / "m")
    with pytest.raises(CorruptionError) as caught:
        bundle.read("t")
    assert "t" in str(caught.value)
    assert sum(taken) <= 1 << 20


def test_gaps_hurt_only_who_asks_for_them(tmp_path):
    writer = BundleWriter(tmp_path / "m")
    writer.add("partial", np.arange(4, dtype=np.float32), spec="8 0,4")
    bundle, _ = open_bundle(writer.finish())
    message = "Does not have sufficient slices for partitioned tensor partial to restore in slice_spec: "
    with pytest.raises(CorruptionError, match=message + "-"):
        bundle.read("partial")
    with pytest.raises(CorruptionError, match=message + "3,3"):
        bundle.read("partial", Box((3,), (3,)))
    assert bundle.read("partial", Box((1,), (2,))).tolist() == [1, 2]


def test_a_missing_data_file_is_damage_and_a_deleted_checkpoint_is_not(tmp_path):
    writer = BundleWriter(tmp_path / "m")
    writer.add("t", np.zeros(3))
    prefix = writer.finish()
    bundle, _ = open_bundle(prefix)
    (tmp_path / "m.data-00000-of-00001").unlink()
    with pytest.raises(CorruptionError, match="data file is missing") as caught:
        bundle.read("t")
    assert caught.value.key == "m.data-00000-of-00001"
    bundle, _ = open_bundle(prefix)
    (tmp_path / "m.index").unlink()
    with pytest.raises(NotFoundError):
        bundle.read("t")


def test_many_boxes_are_read_in_the_order_asked_for(tmp_path):
    writer = BundleWriter(tmp_path / "m", num_shards=3)
    arrays = {f"t{n}": np.full((n + 1, 3), n, ml_dtypes.bfloat16) for n in range(20)}
    for n, (name, array) in enumerate(arrays.items()):
        writer.add(name, array, shard=n % 3)
    bundle, _ = open_bundle(writer.finish())
    asked = [Wanted(name) for name in reversed(arrays)]
    for one, read in zip(asked, bundle.read_many(asked), strict=True):
        assert read.tobytes() == arrays[one.name].tobytes()


def test_every_error_is_one_of_ours_whatever_byte_of_a_data_file_is_lost(tmp_path):
    writer = BundleWriter(tmp_path / "m")
    writer.add("s", np.array([b"ab", b"", b"c" * 20], object))
    writer.add("t", np.arange(6, dtype=np.int16))
    prefix = writer.finish()
    shard = tmp_path / "m.data-00000-of-00001"
    data = shard.read_bytes()
    for size in range(len(data)):
        shard.write_bytes(data[:size])
        bundle, _ = open_bundle(prefix)
        with pytest.raises(CkptdError):
            bundle.read_many([Wanted("s"), Wanted("t")])


def test_what_lies_side_by_side_is_asked_for_at_once_and_what_lies_apart_is_shared_out(tmp_path):
    whole = np.random.default_rng(0).integers(0, 255, (20, 1 << 20), np.uint8)
    writer = BundleWriter(tmp_path / "m")
    writer.add("t", whole)
    bundle, objects = open_bundle(writer.finish())
    objects.access = AccessPattern(num_readers=2, gap_bytes=4096, request_bytes=64 << 20)
    assert (bundle.read("t") == whole).all()
    assert len(objects.ranges) == 1

    objects.ranges.clear()
    jobs = []
    each = seams.EACH_OF_SEVERAL.value

    def noted(do, items, *rest):
        jobs.extend(map(len, items))
        return each(do, items, *rest)

    with pytest.MonkeyPatch.context() as patched:
        seams.EACH_OF_SEVERAL.put(patched, noted)
        assert (bundle.read("t", Box((0, 0), (20, 1 << 19))) == whole[:, : 1 << 19]).all()
    assert len(objects.ranges) == 20  # half a MiB each, and as much between them
    assert jobs == [16, 4]
