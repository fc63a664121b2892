"""Pytrees of every kind, there and back."""

from __future__ import annotations

import functools
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from flax import nnx

import ckptd
from ckptd.errors import InvalidRequestError, NotFoundError
from ckptd.jax import describe, load, to_arrays
from ckptd.trees.outline import OUTLINE_NAME


class Pair(NamedTuple):
    left: Any
    right: Any


@functools.partial(jax.tree_util.register_dataclass, data_fields=["w", "rest"], meta_fields=["name"])
@dataclass
class Layer:
    w: Any
    rest: Any
    name: str = ""


@jax.tree_util.register_pytree_node_class
class Bag:
    """A node whose children have no names, and that knows something besides them."""

    def __init__(self, *things, label=None):
        self.things, self.label = things, label

    def tree_flatten(self):
        return self.things, self.label

    @classmethod
    def tree_unflatten(cls, label, things):
        return cls(*things, label=label)


@jax.tree_util.register_pytree_with_keys_class
class Twins(Bag):
    """A node that gives both children the same key."""

    def tree_flatten_with_keys(self):
        return [(jax.tree_util.GetAttrKey("it"), thing) for thing in self.things], self.label


def saved(tree, tmp_path):
    prefix = str(tmp_path / "model.ckpt-1")
    ckptd.save_checkpoint(prefix, to_arrays(tree))
    return prefix


def assert_same(one, other):
    """Compare trees: structure, types, dtypes, shardings and bits."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert type(a) is type(b)
        if isinstance(a, jax.Array):
            assert (a.sharding, a.dtype) == (b.sharding, b.dtype)
            if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
                a, b = jax.random.key_data(a), jax.random.key_data(b)
            assert (a.weak_type, a.committed) == (b.weak_type, b.committed)
        if hasattr(a, "dtype"):
            assert a.dtype == b.dtype
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
        else:
            assert a == b


def test_names_are_the_paths_that_jax_tells():
    tree = {
        "model": Layer(w=jnp.ones(2), rest=[jnp.ones(1), Bag(jnp.ones(1), jnp.ones(3))], name="first"),
        "pair": Pair(jnp.ones(1), (jnp.ones(1),)),
        "step": 3,
        7: jnp.ones(1),
    }
    names = set(to_arrays(tree)) - {OUTLINE_NAME}
    assert names == {
        "model/w",
        "model/rest/0",
        "model/rest/1/0",
        "model/rest/1/1",
        "pair/left",
        "pair/right/0",
        "step",
        "7",
    }


def test_without_a_target_nodes_come_back_as_dicts_lists_and_tuples(tmp_path):
    tree = OrderedDict(
        layer=Layer(jnp.arange(3), None, "name"),
        bag=Bag(np.arange(2.0), "text"),
        pair=Pair(1, (True, [0.5, b"\xff"])),
        empty={},
    )
    got = load(saved(tree, tmp_path))
    assert list(got) == ["layer", "bag", "pair", "empty"]
    assert got["pair"] == {"left": 1, "right": (True, [0.5, b"\xff"])}
    assert got["empty"] == {}
    assert got["layer"]["rest"] is None
    assert isinstance(got["layer"]["w"], jax.Array)
    assert isinstance(got["bag"][0], np.ndarray)
    assert got["bag"][1] == "text"


def test_with_a_target_exactly_its_structure_comes_back(tmp_path):
    params = {"w": jnp.ones((2, 3)), "b": jnp.zeros(3)}
    tree = {
        "layer": Layer(params, Bag(jnp.arange(4), label="kept by the target"), "name"),
        "optimizer": optax.chain(optax.clip(1.0), optax.adamw(1e-3)).init(params),
        "nothing": None,
        "plain": [1, 2.5, "x", b"\x00", True, (np.float32(3), np.arange(3, dtype=np.int16))],
    }
    assert_same(load(saved(tree, tmp_path), tree), tree)


def test_state_of_flax_comes_back_into_the_model(tmp_path):
    class Model(nnx.Module):
        def __init__(self, seed):
            rngs = nnx.Rngs(seed)
            self.layers = getattr(nnx, "List", list)([nnx.Linear(4, 4, rngs=rngs) for _ in range(2)])
            self.drop = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            for layer in self.layers:
                x = layer(x)
            return self.drop(x)

    one, other = Model(0), Model(1)
    prefix = saved({"model": nnx.state(one)}, tmp_path)
    assert "model/layers/0/kernel/value" in ckptd.load_checkpoint(prefix)
    nnx.update(other, load(prefix, {"model": nnx.state(other)})["model"])
    x = jnp.ones((2, 4))
    assert (one(x) == other(x)).all()  # the same weights, and the same random stream behind the dropout


DTYPES = [
    *(jnp.bool_, jnp.int8, jnp.uint8, jnp.int16, jnp.uint16, jnp.int32, jnp.uint32),
    *(jnp.float16, jnp.bfloat16, jnp.float32, jnp.complex64, jnp.int4, jnp.uint4),
    *(jnp.float8_e4m3fn, jnp.float8_e5m2, jnp.float8_e4m3fnuz, jnp.float8_e5m2fnuz, jnp.float8_e4m3b11fnuz),
]


def test_every_dtype_comes_back_bit_for_bit(tmp_path):
    tree = {np.dtype(dtype).name: jnp.arange(6).astype(dtype).reshape(2, 3) for dtype in DTYPES}
    tree |= {f"scalar {name}": array[1, 1] for name, array in tree.items()}
    tree["nothing"] = jnp.zeros((0, 3))
    prefix = saved(tree, tmp_path)
    assert_same(load(prefix), tree)
    assert_same(load(prefix, tree), tree)
    assert ckptd.load_checkpoint(prefix)["bfloat16"].dtype == ml_dtypes.bfloat16


def test_a_weakly_typed_scalar_stays_one_with_a_target(tmp_path):
    tree = {"rate": jnp.asarray(0.5), "count": jnp.asarray(3)}
    assert tree["rate"].weak_type
    assert_same(load(saved(tree, tmp_path), tree), tree)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_random_keys_go_on_with_the_same_stream(impl, tmp_path):
    tree = {"one": jax.random.key(1, impl=impl), "many": jax.random.split(jax.random.key(2, impl=impl), (2, 3))}
    prefix = saved(tree, tmp_path)
    for target in (None, tree, jax.eval_shape(lambda: tree)):
        got = load(prefix, target)
        assert_same(got, tree)
        assert jax.random.bits(got["one"]) == jax.random.bits(tree["one"])


def test_keys_of_another_generator_are_refused(tmp_path):
    prefix = saved({"key": jax.random.key(1)}, tmp_path)
    with pytest.raises(InvalidRequestError, match="key"):
        load(prefix, {"key": jax.random.key(1, impl="rbg")})


def test_64_bits_are_never_cut_silently(tmp_path):
    prefix = saved({"x": np.float64(0.1), "a": np.arange(3)}, tmp_path)
    assert load(prefix)["x"] == 0.1
    with pytest.raises(InvalidRequestError, match="x64"):
        load(prefix, {"x": jax.ShapeDtypeStruct((), np.float64), "a": np.zeros(3, np.int64)})


def test_a_target_that_does_not_fit_is_told_all_that_is_wrong(tmp_path):
    tree = {"w": jnp.ones((2, 3)), "half": jnp.ones(2, jnp.bfloat16), "old": 1, "names": ["a"], "n": 1}
    prefix = saved(tree, tmp_path)
    target = {"w": jnp.ones((3, 2)), "half": jnp.ones(2), "W": jnp.ones(1), "names": ["b"], "n": "text"}
    with pytest.raises(InvalidRequestError) as raised:
        load(prefix, target)
    said = str(raised.value)
    assert "w: stored float32 of shape [2, 3], target float32 of shape [3, 2]" in said
    assert "half: stored bfloat16 of shape [2], target float32 of shape [2]" in said
    assert "W: not in the checkpoint; did you mean 'w'?" in said
    assert "old: int64 scalar is stored and not in the target" in said
    assert "n: stored int64 scalar, target str" in said
    assert "names" not in said
    assert load(prefix, {"w": tree["w"], "names": ["b"]}, partial=True)["names"] == ["a"]


def test_a_part_of_the_tree_is_loaded_alone(tmp_path):
    tree = {"model": {"layers": [{"w": jnp.ones(2)}, {"w": jnp.zeros(2)}]}, "step": 4}
    prefix = saved(tree, tmp_path)
    assert_same(load(prefix, part="model/layers/1"), tree["model"]["layers"][1])
    assert_same(load(prefix, {"w": jnp.ones(2)}, part="model/layers/0"), tree["model"]["layers"][0])
    assert load(prefix, part="step") == 4
    with pytest.raises(NotFoundError, match="did you mean 'model'"):
        load(prefix, part="modle")


def test_the_description_of_a_checkpoint_is_a_target(tmp_path):
    tree = {
        "w": jnp.ones((2, 3), jnp.bfloat16),
        "key": jax.random.split(jax.random.key(0), 2),
        "n": 3,
        "host": np.arange(3.0),
        "list": [1, None, "x"],
    }
    prefix = saved(tree, tmp_path)
    described = describe(prefix)
    assert described["w"] == jax.ShapeDtypeStruct((2, 3), jnp.bfloat16)
    assert described["key"] == jax.ShapeDtypeStruct((2,), tree["key"].dtype)
    assert_same(load(prefix, described), tree)


def test_what_others_wrote_is_a_flat_dict_or_fills_a_target(tmp_path):
    prefix = str(tmp_path / "model.ckpt-1")
    ckptd.save_checkpoint(prefix, {"dense/kernel": np.ones((2, 2), np.float32), "words": ["a", "b"]})
    got = load(prefix)
    assert isinstance(got["dense/kernel"], jax.Array)
    assert got["words"].tolist() == [b"a", b"b"]
    assert_same(
        load(prefix, {"dense": {"kernel": jnp.zeros((2, 2))}}, partial=True), {"dense": {"kernel": jnp.ones((2, 2))}}
    )


def test_what_can_not_be_saved_is_named():
    gone = jnp.ones(3)
    gone.delete()
    for tree, said in [
        ({"a": {"gone": gone}}, "a/gone: .*deleted"),
        ({"a": {"what": object()}}, "a/what: object"),
        ({"a": jnp.ones(1), "b/c": jnp.ones(1), "b": {"c": jnp.ones(1)}}, "b/c: two parts"),
        ({"a": Twins(jnp.ones(1), jnp.ones(1))}, "a: two children of this Twins"),
        (jnp.ones(1), "a tree whose leaves have names"),
    ]:
        with pytest.raises(InvalidRequestError, match=said):
            ckptd.save_checkpoint("memory://jax/m-1", to_arrays(tree))
    with pytest.raises(InvalidRequestError, match="x: a function that JAX transforms"):
        jax.jit(lambda x: to_arrays({"x": x}) and x)(jnp.ones(1))


def test_what_is_saved_are_views_of_jax_own_memory():
    tree = {"w": jnp.ones(1000), "half": jnp.ones(1000, jnp.bfloat16), "tiny": jnp.ones(1000, jnp.float8_e5m2)}
    for name, array in to_arrays(tree).items():
        if name != OUTLINE_NAME:
            assert array.ctypes.data == tree[name].unsafe_buffer_pointer()
