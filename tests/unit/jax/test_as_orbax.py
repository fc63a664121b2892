"""What programs for Orbax rely on, the same with its manager and with ours, where they are to be alike."""

from __future__ import annotations

import logging

import pytest

jax = pytest.importorskip("jax")
ocp = pytest.importorskip("orbax.checkpoint")

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402

import ckptd.jax  # noqa: E402
from ckptd.errors import ConflictError, InvalidRequestError, NotFoundError  # noqa: E402

MANAGERS = {"stock": ocp.CheckpointManager, "ours": ckptd.jax.CheckpointManager}

each_manager = pytest.mark.parametrize("manager_of", MANAGERS.values(), ids=MANAGERS.keys())


def tree(step):
    return {"w": jnp.full((8, 2), float(step), jnp.float32)}


def args(step):
    return ocp.args.StandardSave(tree(step))


@each_manager
def test_what_was_just_saved_is_restored(tmp_path, manager_of):
    with manager_of(tmp_path / "run") as manager:
        for step in (1, 2, 3):
            manager.save(step, args=args(step))
            assert float(manager.restore(step, args=ocp.args.StandardRestore(tree(0)))["w"][0, 0]) == step
        assert float(manager.restore(None, args=ocp.args.StandardRestore(tree(0)))["w"][0, 0]) == 3


@each_manager
@pytest.mark.parametrize("name", ["my run", "a:b", "{a} (b)"])
def test_a_directory_may_be_called_as_its_user_likes(tmp_path, manager_of, name):
    with manager_of(tmp_path / name) as manager:
        manager.save(1, args=args(1))
    with manager_of(tmp_path / name) as manager:
        assert manager.latest_step() == 1
        assert float(manager.restore(1, args=ocp.args.StandardRestore(tree(0)))["w"][0, 0]) == 1


def test_a_directory_may_have_the_brackets_that_stock_takes_for_a_pattern(tmp_path):
    with MANAGERS["ours"](tmp_path / "run [1]") as manager:
        manager.save(1, args=args(1))
        assert float(manager.restore(1, args=ocp.args.StandardRestore(tree(0)))["w"][0, 0]) == 1


@each_manager
def test_the_last_lines_of_a_program_save_the_last_step_once(tmp_path, manager_of):
    with manager_of(tmp_path / "run", options=ocp.CheckpointManagerOptions(save_interval_steps=2)) as manager:
        for step in range(1, 5):
            manager.save(step, args=args(step))
        for last in (4, 5):
            if manager.latest_step() != last:
                manager.save(last, args=args(last), force=True)
            assert manager.latest_step() == last
        assert manager.all_steps() == [1, 2, 4, 5]


@each_manager
def test_what_retention_deletes_is_gone_once_all_is_finished(tmp_path, manager_of):
    with manager_of(tmp_path / "run", options=ocp.CheckpointManagerOptions(max_to_keep=2)) as manager:
        for step in range(1, 6):
            manager.save(step, args=args(step))
        manager.wait_until_finished()
        assert manager.all_steps() == [4, 5]


def rows():
    return NamedSharding(Mesh(np.array(jax.devices()), ("x",)), PartitionSpec("x"))


RESTORES = {
    "dtype and sharding": lambda: ocp.args.PyTreeRestore(
        tree(0), restore_args={"w": ocp.ArrayRestoreArgs(sharding=rows(), dtype=jnp.bfloat16)}
    ),
    "sharding alone": lambda: ocp.args.PyTreeRestore(restore_args={"w": ocp.ArrayRestoreArgs(sharding=rows())}),
    "mesh and axes": lambda: ocp.args.PyTreeRestore(
        tree(0), restore_args={"w": ocp.ArrayRestoreArgs(mesh=rows().mesh, mesh_axes=PartitionSpec("x"))}
    ),
    "numpy": lambda: ocp.args.PyTreeRestore(tree(0), restore_args={"w": ocp.RestoreArgs(restore_type=np.ndarray)}),
    "a target of another dtype": lambda: ocp.args.StandardRestore(
        {"w": jax.ShapeDtypeStruct((8, 2), jnp.float16, sharding=rows())}
    ),
}


@pytest.mark.parametrize("wanted", RESTORES.values(), ids=RESTORES.keys())
def test_restore_arguments_are_followed_as_orbax_follows_them(tmp_path, wanted):
    found = []
    for name, manager_of in MANAGERS.items():
        with manager_of(tmp_path / name) as manager:
            save = ocp.args.StandardSave if isinstance(wanted(), ocp.args.StandardRestore) else ocp.args.PyTreeSave
            manager.save(1, args=save(tree(1)))
            manager.wait_until_finished()
            found.append(manager.restore(1, args=wanted())["w"])
    stock, ours = found
    assert (type(ours), ours.dtype) == (type(stock), stock.dtype)
    assert getattr(ours, "sharding", None) == getattr(stock, "sharding", None)
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(stock))


REFUSED = {
    "transforms": lambda: ocp.args.PyTreeRestore(tree(0), transforms={}),
    "not strict": lambda: ocp.args.StandardRestore(tree(0), strict=False),
    "a fallback": lambda: ocp.args.StandardRestore(tree(0), fallback_sharding=rows()),
    "a shape to cut to": lambda: ocp.args.PyTreeRestore(
        tree(0), restore_args={"w": ocp.ArrayRestoreArgs(global_shape=(2, 2), strict=False)}
    ),
    "arguments for what is not there": lambda: ocp.args.PyTreeRestore(
        tree(0), restore_args={"v": ocp.ArrayRestoreArgs(sharding=rows())}
    ),
}


@pytest.mark.parametrize("wanted", REFUSED.values(), ids=REFUSED.keys())
def test_what_has_no_counterpart_is_refused_and_not_ignored(tmp_path, wanted):
    with ckptd.jax.CheckpointManager(tmp_path / "run") as manager:
        manager.save(1, tree(1))
        with pytest.raises(InvalidRequestError):
            manager.restore(1, args=wanted())
        with pytest.raises(InvalidRequestError, match="save_args"):
            manager.save(2, args=ocp.args.PyTreeSave(tree(2), save_args={"w": ocp.SaveArgs(dtype=jnp.bfloat16)}))
        with pytest.raises(InvalidRequestError, match="custom_metadata"):
            manager.save(2, args=ocp.args.PyTreeSave(tree(2), custom_metadata={"a": 1}))
        assert manager.all_steps() == [1]


def test_options_that_would_change_something_are_refused(tmp_path):
    options = ocp.CheckpointManagerOptions(step_format_fixed_length=8)
    with pytest.raises(InvalidRequestError, match="step_format_fixed_length"):
        ckptd.jax.CheckpointManager(tmp_path / "run", options=options)
    options = ocp.CheckpointManagerOptions(enable_background_delete=True, cleanup_tmp_directories=True)
    ckptd.jax.CheckpointManager(tmp_path / "run", options=options).close()


def test_a_leaf_of_dots_is_left_out(tmp_path):
    with ckptd.jax.CheckpointManager(tmp_path / "run") as manager:
        manager.save(1, {"w": jnp.ones(2), "opt": {"m": jnp.ones(2), "v": jnp.ones(2)}, "n": 3})
        found = manager.restore(1, {"w": jnp.zeros(2), "opt": ..., "n": 0})
        assert found["w"].tolist() == [1, 1]
        assert found["opt"] is ...
        assert found["n"] == 3
        with pytest.raises(InvalidRequestError, match=r"opt/v: .* is stored and not in the target"):
            manager.restore(1, {"w": jnp.zeros(2), "opt": {"m": ...}, "n": 0})


ERRORS = {
    "an empty run": (FileNotFoundError, NotFoundError, lambda manager: manager.restore(None)),
    "a step that is not there": (
        FileNotFoundError,
        NotFoundError,
        lambda manager: (
            manager.save(1, args=args(1)),
            manager.restore(7, args=ocp.args.StandardRestore(tree(0))),
        ),
    ),
    "a target of another shape": (
        ValueError,
        InvalidRequestError,
        lambda manager: (
            manager.save(1, args=args(1)),
            manager.restore(1, args=ocp.args.StandardRestore({"w": jnp.zeros((3, 3))})),
        ),
    ),
    "a step that is there": (
        ValueError,
        ConflictError,
        lambda manager: (manager.save(1, args=args(1)), manager.save(1, args=args(1), force=True)),
    ),
}


@each_manager
@pytest.mark.parametrize(("theirs", "ours", "call"), ERRORS.values(), ids=ERRORS.keys())
def test_programs_catch_what_they_caught(tmp_path, manager_of, theirs, ours, call):
    with manager_of(tmp_path / "run") as manager, pytest.raises(theirs) as told:
        call(manager)
    if manager_of is ckptd.jax.CheckpointManager:
        assert isinstance(told.value, ours)


def test_a_step_behind_the_newest_is_passed_over_with_a_word_and_a_rollback_takes_it_up(tmp_path, caplog):
    options = ckptd.jax.CheckpointManagerOptions(save_interval_steps=10, keep_period=20)
    with ckptd.jax.CheckpointManager(tmp_path / "run", options=options) as manager:
        for step in (10, 20, 30, 40):
            manager.save(step, tree(step))
        manager.restore(20)
        with caplog.at_level(logging.WARNING):
            assert [manager.save(step, tree(-step)) for step in (25, 30, 40)] == [False] * 3
        told = [record.getMessage() for record in caplog.records if "roll_back" in record.getMessage()]
        assert len(told) == 1
        assert "step 30 is not saved, nor are others up to 40" in told[0]
        with pytest.raises(NotFoundError, match="step 15 is not there"):
            manager.roll_back(15)
        assert manager.roll_back(20) == [30, 40]
        assert manager.all_steps() == [10, 20]
        assert manager.latest_step() == 20
        assert manager.save(30, tree(-30))
        assert float(manager.restore()["w"][0, 0]) == -30


STEPS = (None, 3.0, jnp.float32(3), np.float64(3.5), "3", -1, True)


@pytest.mark.parametrize("step", STEPS, ids=repr)
def test_a_step_that_is_no_whole_number_is_refused_wherever_it_is_given(tmp_path, step):
    with ckptd.jax.CheckpointManager(tmp_path / "run") as manager:
        manager.save(3, tree(3))
        calls = [manager.should_save, manager.delete, manager.roll_back, lambda step: manager.save(step, tree(1))]
        if step is not None:  # the latest
            calls += [manager.restore, manager.item_metadata]
        for call in calls:
            with pytest.raises(ValueError, match="a step is a whole number from 0 on"):
                call(step)
        assert manager.all_steps(read=True) == [3]


@each_manager
def test_items_come_back_as_a_composite(tmp_path, manager_of):
    items = ocp.args.Composite(
        state=args(1),
        meta=ocp.args.JsonSave({"a": [1, None]}),
        key=ocp.args.JaxRandomKeySave(jax.random.key(3)),
        one=ocp.args.ArraySave(jnp.arange(3)),
    )
    with manager_of(tmp_path / "run", item_names=("state", "meta", "key", "one")) as manager:
        manager.save(1, args=items)
        manager.wait_until_finished()
        found = manager.restore(1)
        assert type(found) is ocp.args.Composite
        assert found.meta == {"a": [1, None]}
        assert found.state["w"].tolist() == tree(1)["w"].tolist()
        assert manager.item_metadata(1).state["w"].shape == (8, 2)
        asked = ocp.args.Composite(key=ocp.args.JaxRandomKeyRestore(), one=ocp.args.ArrayRestore())
        some = manager.restore(1, args=asked)
        assert some.key == jax.random.key(3)
        assert some.one.tolist() == [0, 1, 2]
        assert manager.best_step() == 1
        with pytest.raises(KeyError, match="other"):
            manager.restore(1, args=ocp.args.Composite(other=ocp.args.StandardRestore()))


def test_what_the_manager_has_not_is_refused_with_a_way_on(tmp_path):
    with ckptd.jax.CheckpointManager(tmp_path / "run") as manager:
        for name in ("metrics", "custom_metadata"):
            with pytest.raises(InvalidRequestError, match=f"{name}= .* in the tree"):
                manager.save(1, tree(1), **{name: {"loss": 1.0}})
        with pytest.raises(AttributeError, match="item_metadata"):
            manager.metadata(1)
        with pytest.raises(AttributeError, match="'nothing'$"):
            _ = manager.nothing
        with pytest.raises(InvalidRequestError, match="leaves have names"):
            manager.save(1, args=ocp.args.ArraySave(jnp.ones(3)))
        assert manager.all_steps() == []


def test_arguments_for_what_is_no_array_are_refused(tmp_path):
    with ckptd.jax.CheckpointManager(tmp_path / "run") as manager:
        manager.save(1, {"key": jax.random.key(0), "text": "x"})
        item = {"key": jax.random.key(1), "text": ""}
        for name in item:
            wanted = ocp.args.PyTreeRestore(item, restore_args={name: ocp.ArrayRestoreArgs(sharding=rows())})
            with pytest.raises(InvalidRequestError, match=name):
                manager.restore(1, args=wanted)


def test_what_jax_would_cut_is_restored_to_numpy(tmp_path):
    with ckptd.jax.CheckpointManager(tmp_path / "run") as manager:
        manager.save(1, {"w": np.arange(3, dtype=np.int64) + 2**40})
        wanted = ocp.args.PyTreeRestore(restore_args={"w": ocp.RestoreArgs(restore_type=np.ndarray)})
        found = manager.restore(1, args=wanted)["w"]
        assert found.dtype == np.int64
        assert found.tolist() == [2**40, 2**40 + 1, 2**40 + 2]
