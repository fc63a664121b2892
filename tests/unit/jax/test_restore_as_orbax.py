"""What a leaf of a target becomes, whatever was saved and whatever is asked for: with Orbax's manager and with ours."""

from __future__ import annotations

import pytest

jax = pytest.importorskip("jax")
ocp = pytest.importorskip("orbax.checkpoint")

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402

import ckptd.jax  # noqa: E402
from ckptd.errors import InvalidRequestError  # noqa: E402

STORED = {
    "jax_int": jnp.asarray(3, jnp.int32),
    "jax_float": jnp.asarray(3.0, jnp.float32),
    "numpy_int": np.asarray(3, np.int64),
    "numpy_float": np.asarray(3.0, np.float32),
    "int": 3,
    "float": 3.0,
    "bool": True,
}


def everywhere():
    return NamedSharding(Mesh(np.array(jax.devices()), ("x",)), PartitionSpec())


LIKES = {
    "described int32": lambda: jax.ShapeDtypeStruct((), jnp.int32),
    "described float32": lambda: jax.ShapeDtypeStruct((), jnp.float32),
    "described with sharding": lambda: jax.ShapeDtypeStruct((), jnp.float32, sharding=everywhere()),
    "jax int32": lambda: jnp.zeros((), jnp.int32),
    "numpy int64": lambda: np.zeros((), np.int64),
    "numpy float16": lambda: np.zeros((), np.float16),
    "int": lambda: 0,
    "float": lambda: 0.0,
}

ARGUMENTS = {
    "none": lambda: ocp.RestoreArgs(),
    "a dtype": lambda: ocp.RestoreArgs(dtype=np.float32),
    "numpy": lambda: ocp.RestoreArgs(restore_type=np.ndarray),
    "numpy and a dtype": lambda: ocp.RestoreArgs(restore_type=np.ndarray, dtype=np.float16),
    "int": lambda: ocp.RestoreArgs(restore_type=int),
    "float": lambda: ocp.RestoreArgs(restore_type=float),
    "a sharding and a dtype": lambda: ocp.ArrayRestoreArgs(sharding=everywhere(), dtype=jnp.bfloat16),
}


@pytest.fixture(scope="module")
def managers(tmp_path_factory):
    """Managers of Orbax and ours that have saved the same: as a standard tree in step 1, as a PyTree in step 2."""
    place = tmp_path_factory.mktemp("both")
    found = []
    for name, manager_of in (("stock", ocp.CheckpointManager), ("ours", ckptd.jax.CheckpointManager)):
        both = []
        for kind, save in (("standard", ocp.args.StandardSave), ("pytree", ocp.args.PyTreeSave)):
            manager = manager_of(place / name / kind)
            manager.save(1, args=save(STORED))
            manager.wait_until_finished()
            both.append(manager)
        found.append(both)
    yield found
    for both in found:
        for manager in both:
            manager.close()


def seen(value):
    """Return all that a program can tell of a restored leaf."""
    return type(value), getattr(value, "dtype", None), getattr(value, "sharding", None), np.asarray(value).tolist()


@pytest.mark.parametrize("like", LIKES.values(), ids=LIKES.keys())
def test_a_target_is_filled_as_with_orbax(managers, like):
    for name in STORED:
        wanted = ocp.args.StandardRestore({**STORED, name: like()})
        stock, ours = (standard.restore(1, args=wanted)[name] for standard, _ in managers)
        assert seen(ours) == seen(stock), name


@pytest.mark.parametrize("has_item", [True, False], ids=["an item", "no item"])
@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS.keys())
def test_restore_arguments_are_followed_as_with_orbax(managers, arguments, has_item):
    for name in set(STORED) - {"bool"}:
        restore_args = {**dict.fromkeys(STORED, ocp.RestoreArgs()), name: arguments()}
        wanted = ocp.args.PyTreeRestore(STORED if has_item else None, restore_args=restore_args)
        stock, ours = (pytree.restore(1, args=wanted)[name] for _, pytree in managers)
        assert seen(ours) == seen(stock), name


def test_what_a_cast_would_change_is_refused_where_orbax_changes_it(tmp_path):
    state = {"big": np.asarray([2**40]), "half": 1.5, "three": 3}
    with ckptd.jax.CheckpointManager(tmp_path) as manager:
        manager.save(1, state)
        for name, like in (("big", jnp.zeros(1, jnp.int32)), ("half", 0), ("three", True)):
            with pytest.raises(InvalidRequestError, match=name):
                manager.restore(1, args=ocp.args.StandardRestore({**state, name: like}))


@pytest.mark.parametrize(
    "wrong",
    [int, np.ndarray, np.int32, np.dtype("f4"), object()],
    ids=lambda wrong: getattr(wrong, "__name__", "object"),
)
def test_a_leaf_that_says_nothing_is_refused_by_its_path(tmp_path, wrong):
    with ckptd.jax.CheckpointManager(tmp_path) as manager:
        manager.save(1, {"model": {"w": jnp.ones(2)}})
        target = {"model": {"w": wrong}}
        with pytest.raises(InvalidRequestError, match="model/w"):
            manager.restore(1, target)
        with pytest.raises(InvalidRequestError, match="model/w"):
            manager.restore(1, args=ocp.args.StandardRestore(target))


def test_a_class_in_place_of_arguments_is_refused(tmp_path):
    with ckptd.jax.CheckpointManager(tmp_path) as manager:
        with pytest.raises(InvalidRequestError, match=r"StandardSaveArgs\(tree\)"):
            manager.save(1, args=ocp.args.StandardSave)
        manager.save(1, {"w": jnp.ones(2)})
        with pytest.raises(InvalidRequestError, match=r"StandardRestoreArgs\(target\)"):
            manager.restore(1, args=ocp.args.StandardRestore)
