"""How much is read for what is wanted, however many processes saved it and however many read it."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pytest

from ckptd.engine.reading.bundle import Bundle, Wanted
from ckptd.format.slices import Box
from ckptd.storage.local.around_cache import UNIT_BYTES, address_of, empty_at
from ckptd.storage.locations import open_store
from tests.conformance.bundle_files import BundleWriter

SHAPES = {
    "rows": (480, 10, 24),
    "matrix": (96, 1200),
    "wide": (24, 60_000),
    "cube": (12, 48, 480),
    "vector": (120_000,),
}
PAGE = 4096


class Counting:
    """Objects that count what is asked of them."""

    def __init__(self, store):
        self._store = store
        self.num_bytes = 0
        self.access = store.access
        self.get, self.stat, self.location = store.get, store.stat, store.location

    def read_into(self, key, offset, *into):
        self.num_bytes += sum(map(len, into))
        self._store.read_into(key, offset, *into)


def parts(shape, axis, count):
    """Cut a shape into boxes along one axis, as evenly as that goes."""
    cuts = [shape[axis] * n // count for n in range(count + 1)]
    for low, high in itertools.pairwise(cuts):
        start, extent = [0] * len(shape), list(shape)
        start[axis], extent[axis] = low, high - low
        yield Box(tuple(start), tuple(extent))


def pages(bundle, name, box):
    """Count the pages that hold bytes of `box`: a disk reads no less than them."""
    tensor = bundle.index.tensor(name)
    touched = set()
    for piece in tensor.pieces:
        common = piece.box.intersect(box)
        if common is None:
            continue
        numbers = np.arange(np.prod(piece.box.shape)).reshape(piece.box.shape)
        inside = Box(tuple(s - b for s, b in zip(common.start, piece.box.start, strict=True)), common.shape)
        at = piece.offset + numbers[inside.within(Box.whole(piece.box.shape))].reshape(-1) * 4
        touched.update((piece.shard_id, page) for page in np.unique(at // PAGE).tolist())
    return len(touched)


@pytest.mark.parametrize(("num_savers", "num_readers"), [(1, 4), (4, 1), (4, 2), (2, 3), (3, 8)])
@pytest.mark.parametrize("saved_along", [0, -1])
@pytest.mark.parametrize("read_along", [0, -1])
def test_resharding_reads_hardly_more_than_is_needed(tmp_path: Path, num_savers, num_readers, saved_along, read_along):
    writer = BundleWriter(tmp_path / "m", num_shards=2)
    arrays = {name: np.arange(np.prod(shape), dtype=np.float32).reshape(shape) for name, shape in SHAPES.items()}
    for name, array in arrays.items():
        writer.add_boxes(name, array, list(parts(array.shape, saved_along % array.ndim, num_savers)))
    objects = Counting(open_store(str(tmp_path)))
    bundle = Bundle.open(objects, writer.finish().name)
    for name, array in arrays.items():
        for box in parts(array.shape, read_along % array.ndim, num_readers):
            objects.num_bytes = 0
            assert (bundle.read(name, box) == array[box.within(Box.whole(array.shape))]).all()
            needed = box.num_elements * 4
            # Gaps of less than a page are read with the page that they lie in, and nothing else is.
            assert objects.num_bytes <= 1.05 * max(needed, pages(bundle, name, box) * PAGE), (name, box)
            whole_runs = read_along == 0 and saved_along == 0
            if whole_runs:
                assert objects.num_bytes == needed


def test_large_new_arrays_lie_to_the_page_as_their_bytes_in_the_file(tmp_path: Path) -> None:
    writer = BundleWriter(tmp_path / "m")
    writer.add("first", np.arange(1001, dtype=np.float32))
    array = np.arange(1_000_000, dtype=np.float32).reshape(1000, 1000)
    writer.add_boxes("large", array, list(parts(array.shape, 0, 4)))
    writer.add("small", np.arange(1000, dtype=np.float32))
    bundle = Bundle.open(open_store(str(tmp_path)), writer.finish().name)
    for box in (None, Box((100, 0), (700, 1000)), Box((300, 0), (300, 1000))):
        read = bundle.read("large", box)
        assert (read == (array if box is None else array[box.within(Box.whole(array.shape))])).all()
        assert (read.flags.c_contiguous, read.flags.writeable, read.flags.aligned) == (True, True, True)
        offset = bundle.index.tensor("large").pieces[0].offset + (0 if box is None else box.start[0] * 4000)
        assert address_of(read.reshape(-1).view(np.uint8).data) % UNIT_BYTES == offset % UNIT_BYTES
    assert bundle.read("small").flags.owndata


def test_an_offset_that_would_misalign_elements_is_not_followed(tmp_path: Path) -> None:
    writer = BundleWriter(tmp_path / "m")
    writer.add("a", np.frombuffer(b"odd", np.uint8))
    writer.add("b", np.arange(100_000, dtype=np.float64))
    read = Bundle.open(open_store(str(tmp_path)), writer.finish().name).read("b")
    assert (read.flags.aligned, read.tolist()) == (True, list(range(100_000)))


@pytest.mark.parametrize("phase", [0, 16, 500])
def test_cold_bytes_reach_any_memory(tmp_path: Path, phase: int) -> None:
    """Nothing of the files is in the page cache; the arrays given lie anywhere."""
    rng = np.random.default_rng(0)
    arrays = {
        f"t{n}": rng.standard_normal(size).astype(np.float32) for n, size in enumerate([700_001, 1000, 2_200_000, 5])
    }
    writer = BundleWriter(tmp_path / "m")
    for name, array in arrays.items():
        writer.add(name, array)
    prefix = writer.finish()
    shard = tmp_path / "m.data-00000-of-00001"
    file = os.open(shard, os.O_RDONLY)
    os.fsync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)
    into = {name: empty_at(array.nbytes, phase).view(np.float32) for name, array in arrays.items()}
    bundle = Bundle.open(open_store(str(tmp_path)), prefix.name)
    bundle.read_many([Wanted(name, into=into[name]) for name in arrays])
    for name, array in arrays.items():
        assert (into[name] == array).all()
