"""npz files against numpy and zipfile, and against files that nobody should write."""

from __future__ import annotations

import contextlib
import io
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptd.errors import CkptdError, CorruptionError, InvalidRequestError, NotFoundError
from ckptd.format import dtypes
from ckptd.interchange import npy
from ckptd.interchange.exporting import export
from ckptd.interchange.npz import NpzSource
from ckptd.interchange.source import TensorFacts
from ckptd.interchange.zip_layout import ZipLayout
from ckptd.storage.local.local_store import LocalStore
from ckptd.storage.memory import MemoryStore
from tests import seams
from tests.unit.interchange.containers import NARROW_KINDS, NUMPY_KINDS, arrays_of, assert_same, checkpoint


def source_of(data: bytes) -> NpzSource:
    store = MemoryStore("file")
    store.put("x.npz", data)
    return NpzSource(store, "x.npz")


def archive_of(members: dict[str, bytes], **options: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def saved(array: np.ndarray, **options: bool) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def header(text: str, version: int = 1) -> bytes:
    data = text.encode("latin1")
    return npy.MAGIC + bytes([version, 0]) + len(data).to_bytes(2 if version == 1 else 4, "little") + data


def test_numpy_and_zipfile_read_what_we_export(tmp_path):
    export(checkpoint(tmp_path / "m-1", NUMPY_KINDS), LocalStore(str(tmp_path)), "m.npz")
    with np.load(tmp_path / "m.npz", allow_pickle=False) as loaded:
        assert_same(dict(loaded), NUMPY_KINDS)
    with zipfile.ZipFile(tmp_path / "m.npz") as archive:
        assert archive.testzip() is None
        assert [info.compress_type for info in archive.infolist()] == [zipfile.ZIP_STORED] * len(NUMPY_KINDS)


def test_what_numpy_cannot_read_back_is_no_export(tmp_path):
    source = checkpoint(tmp_path / "m-1", {**NARROW_KINDS, "w": np.ones(2)})
    store = LocalStore(str(tmp_path))
    done = export(source, store, "m.npz", skip_unsupported=True)
    assert done.skipped == tuple(sorted(NARROW_KINDS))
    assert np.load(tmp_path / "m.npz").files == ["w"]
    with pytest.raises(InvalidRequestError, match="no tensor that npz can hold"):
        export(source, store, "none.npz", names=list(NARROW_KINDS), skip_unsupported=True)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_we_read_what_numpy_writes(tmp_path, save):
    save(tmp_path / "m.npz", **NUMPY_KINDS)
    assert_same(arrays_of(NpzSource(LocalStore(str(tmp_path)), "m.npz")), NUMPY_KINDS)


@pytest.mark.parametrize("array", NUMPY_KINDS.values(), ids=NUMPY_KINDS)
def test_a_header_is_numpys_and_numpys_is_read(array):
    facts = TensorFacts("x", dtypes.of_array_dtype(array.dtype), array.dtype.name, array.shape)
    theirs = saved(array)
    assert npy.encode_header(facts) == theirs[: len(theirs) - array.nbytes]
    for version in ((1, 0), (2, 0), (3, 0)):
        file = io.BytesIO()
        np.lib.format.write_array(file, array, version)
        data = file.getvalue()
        found = npy.decode_header(data[: npy.header_size(data[: npy.PREAMBLE_BYTES])])
        assert (found.dtype, found.shape, found.header_bytes) == (facts.dtype, array.shape, len(data) - array.nbytes)


@pytest.mark.parametrize("descr", [">f8", ">i4", ">c8", "<f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_any_byte_and_row_order_is_read_as_its_values(descr, order):
    array = np.array(np.arange(24).reshape(2, 3, 4), descr, order=order)
    found = arrays_of(source_of(archive_of({"x.npy": saved(array)})))["x"]
    assert np.array_equal(found, array)
    assert found.dtype == array.dtype.newbyteorder("<")


def test_a_large_array_in_column_order_is_refused_with_advice(monkeypatch):
    seams.NPZ_TRANSPOSED_BYTES.put(monkeypatch, 100)
    source = source_of(archive_of({"x.npy": saved(np.zeros((5, 5), order="F"))}))
    with pytest.raises(InvalidRequestError, match="ascontiguousarray"):
        list(source.stream("x"))


def test_objects_are_never_unpickled():
    data = archive_of({"x.npy": saved(np.array([{}], object), allow_pickle=True)})
    with pytest.raises(InvalidRequestError, match="pickle"):
        source_of(data)


@pytest.mark.parametrize("array", [np.array(["text"]), np.array([b"s"]), np.zeros(1, "M8[s]"), np.zeros(1, "f4,i2")])
def test_elements_that_only_numpy_has_are_listed_and_not_read(array):
    source = source_of(archive_of({"x.npy": saved(array)}))
    assert source.facts("x").dtype is None
    with pytest.raises(InvalidRequestError, match="'x'"):
        next(source.stream("x"))
    with pytest.raises(NotFoundError):
        source.facts("y")


GOOD = saved(np.arange(6, dtype=np.int32))
MALFORMED = {
    "nothing": b"",
    "no archive": b"PK" * 50,
    "no array": archive_of({"x.npy": b"text, and enough of it"}),
    "no npy name": archive_of({"readme.txt": b"hello"}),
    "an empty name": archive_of({".npy": GOOD}),
    "a short member": archive_of({"x.npy": GOOD[:6]}),
    "an unknown version": archive_of({"x.npy": npy.MAGIC + b"\x09\0" + GOOD[8:]}),
    "a header that is too long": archive_of({"x.npy": npy.MAGIC + b"\x02\0" + (1 << 30).to_bytes(4, "little") + b"{}"}),
    "a header that is code": archive_of({"x.npy": header("__import__('os').abort()")}),
    "absurd depth": archive_of({"x.npy": header("(" * 9000)}),
    "a list": archive_of({"x.npy": header("[]")}),
    "other fields": archive_of({"x.npy": header("{'descr': '<f4'}")}),
    "a negative dimension": archive_of({"x.npy": header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}")}),
    "too many elements": archive_of(
        {"x.npy": header("{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 8)}")}
    ),
    "more elements than bytes": archive_of(
        {"x.npy": header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000,)}")}
    ),
    "a dtype that is a number": archive_of({"x.npy": header("{'descr': 4, 'fortran_order': False, 'shape': ()}")}),
    "bytes left over": archive_of({"x.npy": GOOD + b"more"}),
    "half an archive": archive_of({"x.npy": GOOD})[:-30],
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_file_is_corruption(case):
    with pytest.raises(CorruptionError) as caught:
        source_of(MALFORMED[case])
    assert "x.npz" in f"{caught.value} {getattr(caught.value, '__notes__', '')}"


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_is_corruption():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", GOOD)
        archive.writestr("x.npy", GOOD)
    with pytest.raises(CorruptionError, match="twice"):
        source_of(file.getvalue())


def test_a_directory_of_absurd_length_is_not_read_at_once(monkeypatch):
    data = archive_of({f"{number:060}.npy": GOOD for number in range(300)})
    seams.NPZ_BUFFER_BYTES.put(monkeypatch, 512)
    seams.SOURCE_READ_BYTES.put(monkeypatch, 20_000)
    with pytest.raises(CorruptionError, match="too much data at once"):
        source_of(data)


def test_unusual_compression_is_refused_and_not_guessed():
    with pytest.raises(InvalidRequestError, match="'x'"):
        source_of(archive_of({"x.npy": GOOD}, compression=zipfile.ZIP_BZIP2))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_flipped_bit_is_found_by_the_end_of_the_stream(compression):
    data = bytearray(archive_of({"x.npy": saved(np.arange(5000))}, compression=compression))
    data[5000] ^= 4
    with pytest.raises(CorruptionError, match="'x'"):
        list(source_of(bytes(data)).stream("x"))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_file_gives_arrays_or_one_of_our_errors(data):
    compression = data.draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
    content = bytearray(archive_of({"x.npy": GOOD, "y.npy": GOOD}, compression=compression))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(CkptdError):
        arrays_of(source_of(bytes(content)))


def test_an_archive_beyond_four_gigabytes_is_laid_out_as_zip64():
    layout = ZipLayout.plan([("a", 5 << 30), ("b", 3)])
    assert layout.members[1].offset == 30 + 1 + 20 + (5 << 30)
    directory = layout.directory([1, 2])
    assert layout.size == layout.directory_offset + len(directory)
    assert directory[-22:-18] == b"PK\5\6"
    with pytest.raises(InvalidRequestError):
        ZipLayout.plan([("x" * 70_000, 1)])
    with pytest.raises(InvalidRequestError):
        ZipLayout.plan([("\udc80", 1)])
