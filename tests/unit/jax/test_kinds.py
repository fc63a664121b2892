"""Values that JAX does not know, and elements that the format lacks, come back as they were."""

from __future__ import annotations

import collections
import datetime
import pathlib

import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402
import ml_dtypes  # noqa: E402
import numpy as np  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402

import ckptd.jax  # noqa: E402
from ckptd.errors import InvalidRequestError  # noqa: E402

VALUES = {
    "text": np.array([["ab", "c"]]),
    "bytes": np.array([b"ab\0", b"c"]),
    "text scalar": np.str_("abc"),
    "scalar": np.float32(1.5),
    "set": {1, 2},
    "counter": collections.Counter("aab"),
    "deque": collections.deque([1, np.arange(3)], 5),
    "path": pathlib.Path("/x"),
    "moment": datetime.datetime(2026, 1, 2),
    "dtype": np.dtype("float32"),
    "number": 2**70,
    "numpy float8": np.arange(4).astype(ml_dtypes.float8_e8m0fnu),
    "scalar float8": ml_dtypes.float8_e3m4(1),
}


def same(one, other):
    assert type(one) is type(other)
    assert getattr(one, "dtype", None) == getattr(other, "dtype", None)
    np.testing.assert_equal(repr(one), repr(other))


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_a_value_comes_back_with_and_without_a_target(tmp_path, value):
    state = {"w": jnp.ones(2), "value": value}
    with ckptd.jax.CheckpointManager(tmp_path) as manager:
        manager.save(1, state)
        same(manager.restore(1)["value"], value)
        same(manager.restore(1, state)["value"], value)
        assert type(manager.item_metadata(1)["value"]) is type(value)
        if not hasattr(value, "shape"):
            with pytest.raises(InvalidRequestError, match="value: stored"):
                manager.restore(1, {**state, "value": frozenset()})


@pytest.mark.parametrize("name", ["float8_e8m0fnu", "float8_e4m3", "float8_e3m4"])
def test_elements_that_the_format_lacks_are_stored_by_their_bits(tmp_path, name):
    dtype = getattr(jnp, name)
    rows = NamedSharding(Mesh(np.array(jax.devices()), ("x",)), PartitionSpec("x"))
    bits = np.arange(64, dtype=np.uint8).reshape(8, 8)
    one = jax.lax.bitcast_convert_type(jnp.asarray(bits), dtype)
    state = {"spread": jax.device_put(one, rows), "one": one, "scalar": one[0, 1]}
    with ckptd.jax.CheckpointManager(tmp_path) as manager:
        manager.save(1, state)
        described = manager.item_metadata(1)
        assert described["one"] == jax.ShapeDtypeStruct((8, 8), dtype)
        for target in (None, state, described, jax.eval_shape(lambda: state)):
            found = manager.restore(1, target)
            for path in state:
                assert found[path].dtype == dtype
                np.testing.assert_array_equal(
                    np.asarray(found[path]).view(np.uint8), np.asarray(state[path]).view(np.uint8)
                )
        assert manager.restore(1, state)["spread"].sharding == rows
        with pytest.raises(InvalidRequestError, match=f"stored {name}"):
            manager.restore(1, {**state, "one": jnp.zeros((8, 8), jnp.uint8)})
    assert (ckptd.load_variable(tmp_path, "one") == bits).all()


def test_torch_and_jax_read_each_others_bits(tmp_path):
    torch = pytest.importorskip("torch")
    import ckptd.torch

    if not hasattr(torch, "float8_e8m0fnu"):
        pytest.skip("this torch has no such elements")
    bits = np.arange(8, dtype=np.uint8)
    ckptd.torch.save({"w": torch.from_numpy(bits).view(torch.float8_e8m0fnu)}, tmp_path / "torch")
    found = ckptd.jax.load(tmp_path / "torch")["w"]
    assert found.dtype == jnp.float8_e8m0fnu
    np.testing.assert_array_equal(np.asarray(found).view(np.uint8), bits)
    with ckptd.jax.CheckpointManager(tmp_path / "jax") as manager:
        manager.save(1, {"w": found})
        manager.wait_until_finished()
        back = ckptd.torch.load(tmp_path / "jax")["w"]
        assert torch.equal(back.view(torch.uint8), torch.from_numpy(bits))
        manager.save(2, {"w": found.astype(jnp.float8_e3m4)})
        manager.wait_until_finished()
        with pytest.raises(InvalidRequestError, match="float8_e3m4"):
            ckptd.torch.load(tmp_path / "jax")


def test_a_container_that_torch_noted_fills_a_plain_one_of_a_target(tmp_path):
    torch = pytest.importorskip("torch")
    import ckptd.torch

    ckptd.torch.save({"m": collections.OrderedDict(w=torch.ones(2)), "c": collections.Counter("ab")}, tmp_path / "t")
    found = ckptd.jax.load(tmp_path / "t", {"m": {"w": jnp.zeros(2)}, "c": {"a": 0, "b": 0}})
    assert found["c"] == {"a": 1, "b": 1}
    assert found["m"]["w"].tolist() == [1, 1]
