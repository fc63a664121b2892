"""Memory does not grow with what is moved: a set of tensors many times as large as what may be held."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

import ckptd
from ckptd.engine.offline.copying import copy_checkpoint
from ckptd.interchange.comparing import compare
from ckptd.interchange.exporting import export
from ckptd.interchange.importing import import_checkpoint
from ckptd.interchange.npz import NpzSource
from ckptd.interchange.safetensors import SafetensorsSource
from ckptd.storage.local.local_store import LocalStore
from tests.unit.interchange.containers import opened

SET_BYTES = 160 << 20
BOUND_BYTES = 72 << 20  # one tensor alone has more


def peak_of(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Give a directory with a checkpoint of a large tensor whole and a large one in slices."""
    directory = tmp_path_factory.mktemp("large")
    half = np.arange(SET_BYTES // 8, dtype=np.uint32).reshape(-1, 2048)
    columns = [ckptd.Slice(half[:, :700], full_shape=half.shape, start=(0, 0))]
    columns.append(ckptd.Slice(half[:, 700:], full_shape=half.shape, start=(0, 700)))
    with ckptd.Checkpointer(str(directory), run="a", rank=0, world_size=1) as checkpointer:
        checkpointer.save(1, {"whole": half, "sliced": columns}).result(timeout=100)
    return directory / "a"


def test_copying_exporting_importing_and_comparing_hold_little(large):
    store = LocalStore(str(large))
    source = opened(large / "model.ckpt-1")
    assert sum(source.facts(name).size_bytes for name in source.names()) == SET_BYTES
    assert BOUND_BYTES < SET_BYTES // 2

    assert peak_of(lambda: copy_checkpoint(store, "model.ckpt-1", store, "copy-1", num_shards=3)) < BOUND_BYTES
    for key, opener in (("m.safetensors", SafetensorsSource), ("m.npz", NpzSource)):
        assert peak_of(lambda key=key: export(source, store, key)) < BOUND_BYTES
        file = opener(store, key)
        imported = f"imported-{key[2]}"
        assert peak_of(lambda f=file, k=imported: import_checkpoint(f, store, k, num_shards=2)) < BOUND_BYTES
        assert peak_of(lambda f=file: print(compare(source, f).is_equal)) < BOUND_BYTES
        store.delete([key])
    assert compare(source, opened(large / "imported-n")).is_equal
