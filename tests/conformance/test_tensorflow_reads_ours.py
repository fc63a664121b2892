"""TensorFlow itself reads what we write: every dtype, whole and sliced, in one shard and in many."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptd.format import dtypes, tensors
from ckptd.format.crc32c import combine, crc32c
from ckptd.format.dtypes import DType
from ckptd.format.entry import Entry
from ckptd.format.index import Index, encode_entries, encode_index
from ckptd.format.slices import Box, TensorSlice
from tests.conformance.bundle_files import FIXTURES, BundleReader, BundleWriter, halves, sample

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf

STORABLE = [dtype for dtype in dtypes.ALL if dtype.array is not None and not dtype.is_variant]
SHAPES: list[tuple[int, ...]] = [(), (0, 3), (7,), (5, 4), (3, 2, 4)]
by_dtype = pytest.mark.parametrize("dtype", STORABLE, ids=lambda dtype: dtype.name)


def restore(prefix: Path, name: str, spec: str, dtype: DType) -> np.ndarray[Any, Any]:
    (tensor,) = tf.raw_ops.RestoreV2(
        prefix=str(prefix), tensor_names=[name], shape_and_slices=[spec], dtypes=[tf.as_dtype(dtype.name)]
    )
    array: np.ndarray[Any, Any] = np.asarray(tensor.numpy())
    return array


def same(ours: np.ndarray[Any, Any], theirs: Any) -> bool:
    theirs = np.asarray(theirs)
    if ours.dtype == object:
        return ours.shape == theirs.shape and ours.ravel().tolist() == theirs.ravel().tolist()
    return ours.shape == theirs.shape and ours.tobytes() == theirs.tobytes()


@by_dtype
@pytest.mark.parametrize("num_shards", [1, 3])
def test_whole_tensors_of_every_shape_are_read_by_name(dtype: DType, num_shards: int, tmp_path: Path) -> None:
    writer = BundleWriter(tmp_path / "model.ckpt-7", num_shards)
    arrays = {f"v/{number}": sample(dtype, shape, number) for number, shape in enumerate(SHAPES)}
    for number, (name, array) in enumerate(arrays.items()):
        writer.add(name, array, shard=number % num_shards, dtype=dtype)
    prefix = writer.finish()
    reader = tf.train.load_checkpoint(str(prefix))
    assert reader.get_variable_to_shape_map() == {name: list(array.shape) for name, array in arrays.items()}
    assert set(reader.get_variable_to_dtype_map().values()) == {tf.as_dtype(dtype.name)}
    for name, array in arrays.items():
        assert same(array, reader.get_tensor(name))
        assert same(array, restore(prefix, name, "", dtype))
        assert same(array, BundleReader(prefix).read(name))


@by_dtype
@pytest.mark.parametrize("num_shards", [1, 3])
def test_each_stored_slice_is_restored_as_it_was_stored(dtype: DType, num_shards: int, tmp_path: Path) -> None:
    array = sample(dtype, (5, 4))
    writer = BundleWriter(tmp_path / "ckpt", num_shards)
    boxes = halves(array.shape)
    writer.add_boxes("w", array, boxes, dtype)
    # The other spelling of a whole dimension has a key of its own.
    writer.add("dash", np.ascontiguousarray(array[1:3]), spec="5 4 1,2:-", dtype=dtype)
    prefix = writer.finish()
    for box in boxes:
        part = array[box.within(Box.whole(array.shape))]
        assert same(part, restore(prefix, "w", f"5 4 {TensorSlice.of_box(box)}", dtype))
    assert same(array[1:3], restore(prefix, "dash", "5 4 1,2:-", dtype))
    assert sorted(tf.train.load_checkpoint(str(prefix)).get_variable_to_shape_map()) == ["dash", "w"]
    assert same(array, BundleReader(prefix).read("w"))


@pytest.mark.parametrize("dtype", [dtype for dtype in STORABLE if dtype.joinable], ids=lambda dtype: dtype.name)
def test_joinable_dtypes_are_joined_and_cut_by_tensorflow(dtype: DType, tmp_path: Path) -> None:
    array = sample(dtype, (6, 5))
    writer = BundleWriter(tmp_path / "ckpt", 2)
    writer.add_boxes("w", array, [*halves((3, 5), 1), Box((3, 0), (3, 5))], dtype)
    prefix = writer.finish()
    assert same(array, tf.train.load_checkpoint(str(prefix)).get_tensor("w"))
    assert same(array[1:5, 1:3], restore(prefix, "w", "6 5 1,4:1,2", dtype))
    assert same(array[1:5, 1:3], BundleReader(prefix).read("w", Box((1, 1), (4, 2))))


@pytest.mark.parametrize("dtype", [dtype for dtype in STORABLE if not dtype.joinable], ids=lambda dtype: dtype.name)
def test_dtypes_that_we_call_not_joinable_are_refused_by_tensorflow(dtype: DType, tmp_path: Path) -> None:
    array = sample(dtype, (6,))
    writer = BundleWriter(tmp_path / "ckpt")
    writer.add_boxes("w", array, halves((6,)), dtype)
    prefix = writer.finish()
    with pytest.raises(tf.errors.OpError, match=f"Dtype {dtype.short} not supported"):
        restore(prefix, "w", "", dtype)
    assert same(array, BundleReader(prefix).read("w"))


@pytest.mark.parametrize("name", ["float16", "uint32", "float8_e5m2", "string"])
def test_parts_side_by_side_under_one_entry_are_read_whole_by_tensorflow(name: str, tmp_path: Path) -> None:
    """Dtypes whose slices TensorFlow cannot join, cut along axis 0: only the checksums of the parts are combined."""
    dtype = dtypes.by_name(name)
    array = sample(dtype, (7, 3))
    parts = [array[:2], array[2:2], array[2:6], array[6:]]
    crc = size = 0
    if dtype.is_string:
        lengths_crc = payload_crc = 0
        sections = [tensors.string_sections(part) for part in parts]
        payload_size = sum(len(section.payload) for section in sections)
        for section in sections:
            lengths_crc = combine(lengths_crc, section.lengths_crc32c, section.lengths_crc_bytes)
            payload_crc = combine(payload_crc, crc32c(section.payload), len(section.payload))
        data = b"".join(section.lengths for section in sections) + tensors.lengths_checksum(lengths_crc)
        data += b"".join(section.payload for section in sections)
        crc, size = tensors.string_crc32c(lengths_crc, payload_crc, payload_size), len(data)
    else:
        data = b""
        for encoded in map(tensors.encode, parts):
            crc = combine(crc, encoded.crc32c, encoded.size)
            data += b"".join(encoded.parts)
        size = len(data)
    prefix = tmp_path / "ckpt"
    (tmp_path / "ckpt.data-00000-of-00001").write_bytes(data)
    (tmp_path / "ckpt.index").write_bytes(encode_index(1, [(b"w", Entry(dtype.number, (7, 3), 0, 0, size, crc))]))
    assert same(array, tf.train.load_checkpoint(str(prefix)).get_tensor("w"))
    assert same(array, restore(prefix, "w", "", dtype))


def test_a_tensor_five_gibibytes_into_its_shard_is_read(tmp_path: Path) -> None:
    prefix, offset = tmp_path / "far", (5 << 30) + 3
    array = sample(dtypes.by_name("int32"), (3, 5))
    encoded = tensors.encode(array)
    with open(f"{prefix}.data-00000-of-00001", "wb") as file:  # a hole takes no room on disk
        file.seek(offset)
        file.write(encoded.parts[0])
    items = [(b"w", Entry(3, (3, 5), 0, offset, encoded.size, encoded.crc32c))]
    Path(f"{prefix}.index").write_bytes(encode_index(1, items))
    assert same(array, tf.train.load_checkpoint(str(prefix)).get_tensor("w"))
    assert same(array, BundleReader(prefix).read("w"))


def test_a_saver_restores_partitioned_and_plain_variables(tmp_path: Path) -> None:
    table = sample(dtypes.by_name("float32"), (10, 3))
    writer = BundleWriter(tmp_path / "model.ckpt-3", 2)
    writer.add_boxes("emb", table, [Box((0, 0), (4, 3)), Box((4, 0), (3, 3)), Box((7, 0), (3, 3))])
    writer.add("global_step", np.array(3, np.int64), shard=1)
    writer.add("names", np.array([b"a", b"", b"\xff\0b"], object), shard=1)
    prefix = writer.finish()
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        emb = tf.compat.v1.get_variable(
            "emb", [10, 3], partitioner=tf.compat.v1.fixed_size_partitioner(3), use_resource=False
        )
        step = tf.compat.v1.get_variable("global_step", [], tf.int64)
        names = tf.compat.v1.get_variable("names", [3], tf.string, tf.compat.v1.zeros_initializer())
        tf.compat.v1.train.Saver().restore(session, str(prefix))
        got_emb, got_step, got_names = session.run([tf.convert_to_tensor(emb), step, names])
    assert same(table, got_emb)
    assert int(got_step) == 3
    assert got_names.tolist() == [b"a", b"", b"\xff\0b"]


def test_what_tensorflow_saves_for_the_same_tensors_is_the_same_bytes(tmp_path: Path) -> None:
    writer = BundleWriter(tmp_path / "ours")
    tensor_names, specs, values = [], [], []
    for number, dtype in enumerate(STORABLE):
        if dtype.name.startswith(("qint", "quint")):
            continue  # an eager tensor cannot be made of those from numpy
        array = sample(dtype, (4, 3))
        cases = [(f"whole/{dtype.name}", array, ""), (f"part/{number}", array[:2], "4 3 0,2:-")]
        cases.append((f"part/{number}", array[2:], "4 3 2,2:0,3"))
        for name, part, spec in cases:
            writer.add(name, np.ascontiguousarray(part), spec=spec)
            tensor_names.append(name)
            specs.append(spec)
            values.append(tf.constant(part, tf.as_dtype(dtype.name)))
    ours = writer.finish()
    theirs = tmp_path / "theirs"
    tf.raw_ops.SaveV2(prefix=str(theirs), tensor_names=tensor_names, shape_and_slices=specs, tensors=values)
    for suffix in (".index", ".data-00000-of-00001"):
        assert Path(f"{ours}{suffix}").read_bytes() == Path(f"{theirs}{suffix}").read_bytes()


def test_an_index_of_several_blocks_and_a_huge_key_is_found_through_by_tensorflow(tmp_path: Path) -> None:
    count = 12_000
    values = np.arange(count, dtype=np.int32)
    prefix = tmp_path / "many"
    tensor_names = [f"layer/{'deep/' * 5}{number:06d}/kernel" for number in range(count - 1)] + ["huge/" + "k" * 524288]
    items = [
        (name.encode(), Entry(3, (), 0, 4 * number, 4, crc32c(values[number].tobytes())).encode())
        for number, name in enumerate(tensor_names)
    ]
    index = encode_entries(1, sorted(items))
    Path(f"{prefix}.index").write_bytes(index)
    Path(f"{prefix}.data-00000-of-00001").write_bytes(values.tobytes())
    assert len(index) > 3 * 262144
    reader = tf.train.load_checkpoint(str(prefix))
    assert len(reader.get_variable_to_shape_map()) == count
    for number in (0, 1, 15, 16, 17, 5999, count - 2, count - 1):
        assert int(reader.get_tensor(tensor_names[number])) == number


def test_tensorflow_reads_every_fixture_that_we_wrote_again(tmp_path: Path) -> None:
    for folder in ("partitioned_grid", "strings", "dtypes", "shapes", "object_max_shard"):
        (source,) = (FIXTURES / "tf" / folder).glob("*.index")
        data = source.read_bytes()
        index = Index.decode(data, str(source))
        again = encode_index(index.num_shards, ((key, Entry.decode(value)) for key, value in index.raw_items() if key))
        (tmp_path / source.name).write_bytes(again)
        for shard in source.parent.glob("*.data-*"):
            (tmp_path / shard.name).write_bytes(shard.read_bytes())
        prefix = tmp_path / source.stem
        theirs, ours = tf.train.load_checkpoint(str(prefix)), BundleReader(prefix)
        for name in theirs.get_variable_to_shape_map():
            if name in ours.index and ours.index.tensor(name).dtype.joinable:
                assert same(ours.read(name), theirs.get_tensor(name))
