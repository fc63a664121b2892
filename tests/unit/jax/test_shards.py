"""Arrays over eight devices, saved as boxes and restored onto other shardings."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

import ckptd
from ckptd.errors import InvalidRequestError
from ckptd.jax import load, to_arrays
from tests import seams

DEVICES = np.array(jax.devices("cpu"))
LINE = Mesh(DEVICES, ("x",))
GRID = Mesh(DEVICES.reshape(4, 2), ("x", "y"))
FULL = np.arange(16 * 8 * 4, dtype=np.float32).reshape(16, 8, 4)

SHARDINGS = {
    "one device": SingleDeviceSharding(DEVICES[3]),
    "rows": NamedSharding(LINE, P("x")),
    "columns": NamedSharding(LINE, P(None, "x")),
    "a grid": NamedSharding(GRID, P("x", "y")),
    "a grid across": NamedSharding(GRID, P("y", None, "x")),
    "both axes on one dimension": NamedSharding(GRID, P(("y", "x"))),
    "half of it replicated": NamedSharding(GRID, P(None, "y")),
    "everywhere": NamedSharding(GRID, P()),
    "some of the devices": NamedSharding(Mesh(DEVICES[2:6], ("x",)), P("x")),
    "devices in another order": NamedSharding(Mesh(DEVICES[::-1], ("x",)), P("x")),
    "as XLA chose": jax.jit(lambda a: a * 1)(jax.device_put(FULL, NamedSharding(LINE, P("x")))).sharding,
}


def saved(tree, tmp_path, number=1):
    prefix = str(tmp_path / f"model.ckpt-{number}")
    return prefix, ckptd.save_checkpoint(prefix, to_arrays(tree))


def assert_holds(array, full, sharding):
    assert array.sharding == sharding
    assert array.dtype == full.dtype
    for shard in array.addressable_shards:
        assert np.asarray(shard.data).tobytes() == full[shard.index].tobytes()


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory):
    """The same array in every sharding, in one checkpoint."""
    tree = {name: jax.device_put(FULL, sharding) for name, sharding in SHARDINGS.items()}
    return saved(tree, tmp_path_factory.mktemp("shards"))


def test_every_box_is_saved_once(everywhere):
    prefix, done = everywhere
    outline = len(ckptd.load_variable(prefix, "_CKPTD_OUTLINE"))
    assert 0 <= done.size_bytes - len(SHARDINGS) * FULL.nbytes - outline < 16
    for name in SHARDINGS:
        np.testing.assert_array_equal(ckptd.load_variable(prefix, name), FULL)


@pytest.mark.parametrize("wanted", SHARDINGS)
def test_every_sharding_restores_onto_every_other(wanted, everywhere):
    prefix, _ = everywhere
    target = {name: jax.ShapeDtypeStruct(FULL.shape, jnp.float32, sharding=SHARDINGS[wanted]) for name in SHARDINGS}
    for array in load(prefix, target).values():
        assert_holds(array, FULL, SHARDINGS[wanted])


def test_of_a_tensor_each_box_is_read_once_and_nothing_else(everywhere, monkeypatch):
    prefix, _ = everywhere
    asked = []
    get_many = seams.READ_MANY.value

    def listening(self, wanted):
        asked.extend(wanted := list(wanted))
        return get_many(self, wanted)

    seams.READ_MANY.put(monkeypatch, listening)
    sharding = NamedSharding(Mesh(DEVICES[:2], ("x",)), P("x"))
    half = jax.ShapeDtypeStruct(FULL.shape, jnp.float32, sharding=sharding)
    replicated = jax.ShapeDtypeStruct(FULL.shape, jnp.float32, sharding=SHARDINGS["half of it replicated"])
    load(prefix, {"a grid": half, "rows": replicated}, partial=True)
    assert asked == [
        ("a grid", (0, 0, 0), (8, 8, 4)),
        ("a grid", (8, 0, 0), (8, 8, 4)),
        ("rows", (0, 0, 0), (16, 4, 4)),
        ("rows", (0, 4, 0), (16, 4, 4)),
    ]


def test_other_dtypes_are_cut_and_joined_too(tmp_path):
    across = NamedSharding(GRID, P(None, ("x", "y")))
    tree = {
        np.dtype(dtype).name: jax.device_put(jnp.asarray(FULL[:, :, 0]).astype(dtype), SHARDINGS["rows"])
        for dtype in (jnp.bfloat16, jnp.float16, jnp.float8_e4m3fn, jnp.int4, jnp.uint32, jnp.bool_)
    }
    prefix, _ = saved(tree, tmp_path)
    target = {name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=across) for name, array in tree.items()}
    for name, array in load(prefix, target).items():
        assert_holds(array, np.asarray(tree[name]), across)


def test_random_keys_are_spread_again(tmp_path):
    keys = jax.device_put(jax.random.split(jax.random.key(5), 16), SHARDINGS["both axes on one dimension"])
    prefix, _ = saved({"keys": keys}, tmp_path)
    wanted = NamedSharding(GRID, P("y"))
    got = load(prefix, {"keys": jax.ShapeDtypeStruct(keys.shape, keys.dtype, sharding=wanted)})["keys"]
    assert got.sharding.is_equivalent_to(wanted, 1)
    assert (jax.random.key_data(got) == jax.random.key_data(keys)).all()


def test_what_came_back_trains_on_with_donated_arrays(tmp_path):
    tree = {"w": jax.device_put(FULL, SHARDINGS["everywhere"]), "key": jax.random.key(0), "rate": jnp.asarray(0.5)}

    @jax.jit
    def noise(tree):
        return tree["w"] + tree["rate"] * jax.random.normal(tree["key"], tree["w"].shape)

    prefix, _ = saved(tree, tmp_path)
    got = load(prefix, tree)
    np.testing.assert_array_equal(noise(got), noise(tree))
    step = jax.jit(lambda w: w + 1, donate_argnums=0)
    w = got["w"]
    for _ in range(3):
        w = step(w)
    np.testing.assert_array_equal(w, FULL + 3)


def test_an_array_may_be_donated_once_save_has_returned_and_is_then_reused(tmp_path):
    step = jax.jit(lambda w: w * 2, donate_argnums=0)
    with ckptd.Checkpointer(tmp_path, run="a") as ckpt:
        w = jax.device_put(np.ones(1 << 20, np.float32), DEVICES[0]) + 0  # in memory of JAX's own
        place = w.unsafe_buffer_pointer()
        pending = ckpt.save(1, to_arrays({"w": w}))
        w2 = step(w)
        assert w.is_deleted()
        assert w2.unsafe_buffer_pointer() == place  # nothing of the save holds on to it
        pending.result()
        assert (ckpt.restore(1)["w"] == 1).all()


def test_a_shape_that_does_not_fit_the_sharding_is_refused_before_anything_is_read(everywhere):
    prefix, _ = everywhere
    with pytest.raises(InvalidRequestError, match=r"rows: stored float32 of shape \[16, 8, 4\], target .*\[8, 8, 4\]"):
        load(prefix, {"rows": jax.ShapeDtypeStruct((8, 8, 4), jnp.float32, sharding=SHARDINGS["rows"])}, partial=True)
