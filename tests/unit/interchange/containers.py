"""Small checkpoints and files that the tests of this room read and write."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np

import ckptd
from ckptd.engine.reading.bundle import Bundle
from ckptd.interchange.bundle import BundleSource
from ckptd.interchange.source import TensorSource
from ckptd.storage.local.local_store import LocalStore

NUMPY_KINDS = {
    "bool": np.array([True, False, True]),
    "empty": np.zeros((0, 3), np.float64),
    "f16": np.array([1, -2], np.float16),
    "f32": np.arange(12, dtype=np.float32).reshape(3, 4),
    "f64": np.array([np.nan, np.inf, -0.0]),
    "i16": np.array([[-3, 3]], np.int16),
    "i32": np.array([1 << 30], np.int32),
    "i64": np.array(-(1 << 62)),
    "i8": np.array([-8], np.int8),
    "u16": np.array([65535], np.uint16),
    "u32": np.array([1 << 31], np.uint32),
    "u64": np.array([(1 << 64) - 1], np.uint64),
    "u8": np.array([200], np.uint8),
    "a/b c \u00e9": np.array([1.0, 2.0]),
    "c64": np.array([1 + 2j], np.complex64),
}
NARROW_KINDS = {
    "bf16": np.array([1.5, -2], ml_dtypes.bfloat16),
    "e4m3": np.array([1, 2], ml_dtypes.float8_e4m3fn),
    "e5m2": np.array([1, 2], ml_dtypes.float8_e5m2),
}
WITHOUT_COUNTERPART = {
    "int4": np.array([-8, 7], ml_dtypes.int4),
    "strings": np.array([b"one", b"two"], object),
    "wide complex": np.array([1j]),
}


def checkpoint(prefix: Path, arrays: dict[str, np.ndarray]) -> BundleSource:
    ckptd.save_checkpoint(prefix, arrays)
    return opened(prefix)


def opened(prefix: Path) -> BundleSource:
    store = LocalStore(str(prefix.parent))
    return BundleSource(store, Bundle.open(store, prefix.name))


def arrays_of(source: TensorSource) -> dict[str, np.ndarray]:
    found = {}
    for name in source.names():
        facts = source.facts(name)
        parts = [part.copy() for part in source.stream(name)]
        whole = np.concatenate(parts) if parts else np.zeros(0, facts.dtype.array)
        found[name] = whole.reshape(facts.shape)
    return found


def assert_same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert sorted(ours) == sorted(theirs)
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype, name
        assert ours[name].shape == array.shape, name
        assert ours[name].tobytes() == np.ascontiguousarray(array).tobytes(), name
