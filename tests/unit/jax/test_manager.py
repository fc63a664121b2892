"""The manager that is shaped like Orbax's."""

from __future__ import annotations

import datetime
import logging

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

import ckptd
from ckptd.errors import ConflictError, InvalidRequestError, NotFoundError
from ckptd.jax import CheckpointManager, CheckpointManagerOptions
from ckptd.jax.places import place
from tests.fakes.waiting import eventually
from tests.unit.client.served import Daemon


def tree(number):
    return {"w": jnp.full(4, float(number)), "step": number}


def saved_steps(directory, steps, **options):
    with CheckpointManager(directory, **options) as manager:
        for step in steps:
            manager.save(step, tree(step))
    with CheckpointManager(directory) as manager:  # a save is told of before older ones are deleted, `close` waits
        return manager.all_steps()


def test_save_and_restore(manager):
    assert manager.latest_step() is None
    assert manager.save(3, tree(3))
    manager.wait_until_finished()
    assert not manager.is_saving_in_progress()
    assert (manager.latest_step(), manager.all_steps()) == (3, [3])
    for got in (manager.restore(3), manager.restore(), manager.restore(3, tree(0)), manager.restore(target=tree(0))):
        assert got["step"] == 3
        assert (got["w"] == 3).all()
    assert manager.item_metadata(3) == {"w": jax.ShapeDtypeStruct((4,), jnp.float32), "step": 3}
    with pytest.raises(NotFoundError):
        manager.restore(4)


def test_the_files_lie_in_the_directory(manager, tmp_path):
    manager.save(1, tree(1))
    manager.wait_until_finished()
    assert ckptd.latest_checkpoint(tmp_path / "run") == str(tmp_path / "run" / "model.ckpt-1")


def test_an_interval_is_kept_and_the_first_step_is_saved_whatever_it_is(tmp_path):
    assert saved_steps(tmp_path / "run", range(3, 14), save_interval_steps=5, save_on_steps={12}) == [3, 5, 10, 12]
    with CheckpointManager(tmp_path / "run", save_interval_steps=5) as manager:
        assert [step for step in range(10, 31) if manager.should_save(step)] == [15, 20, 25, 30]


def test_a_function_may_decide(tmp_path):
    asked = []

    def decide(step, latest):
        asked.append((step, latest))
        return step == 2

    assert saved_steps(tmp_path / "run", range(4), should_save_fn=decide) == [2]
    assert asked == [(0, None), (1, None), (2, None), (3, 2)]


def test_a_step_is_saved_against_the_interval_by_force_and_again_only_to_overwrite(tmp_path):
    with CheckpointManager(tmp_path / "run", save_interval_steps=10) as manager:
        assert manager.save(1, tree(1))
        assert not manager.save(2, tree(2))
        assert manager.save(2, tree(2), force=True)
        manager.wait_until_finished()
        assert not manager.save(2, tree(5))
        with pytest.raises(ConflictError, match="step 2"):
            manager.save(2, tree(5), force=True)
        assert manager.save(2, tree(5), overwrite=True)
        manager.wait_until_finished()
        assert manager.restore(2)["step"] == 5


@pytest.mark.parametrize("max_to_keep", [1, 3])
def test_the_newest_stay_and_those_of_a_period(max_to_keep, tmp_path):
    kept = set(saved_steps(tmp_path / "run", range(1, 10), max_to_keep=max_to_keep, keep_period=4))
    # Those of the period do not count, from the moment on that they are pinned.
    assert {4, 8, *range(1, 10)[-max_to_keep:]} <= kept <= {4, 8, *[9, 7, 6][:max_to_keep]}


def test_what_was_killed_before_it_was_pinned_is_pinned_later(tmp_path):
    saved_steps(tmp_path / "run", [4])
    assert saved_steps(tmp_path / "run", [5, 6, 7], max_to_keep=1, keep_period=4) == [4, 7]


def test_delete_and_what_is_read_only(tmp_path):
    assert saved_steps(tmp_path / "run", [1, 2]) == [1, 2]
    with CheckpointManager(tmp_path / "run", read_only=True) as manager:
        assert not manager.save(3, tree(3), force=True)
        with pytest.raises(InvalidRequestError, match="read only"):
            manager.delete(1)
    with CheckpointManager(tmp_path / "run") as manager:
        manager.delete(1)
        assert manager.all_steps() == [2]
        with pytest.raises(ConflictError, match="latest"):
            manager.delete(2)


@pytest.mark.parametrize("copy_in_background", [True, False])
def test_arrays_may_be_donated_deleted_or_changed_while_the_save_goes_on(copy_in_background, tmp_path):
    mesh = jax.make_mesh((8,), ("x",))
    step = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    state = {"one": jnp.zeros(1 << 22), "rows": jax.device_put(jnp.zeros((8, 1 << 18)), rows)}
    host = np.zeros(1000)
    with CheckpointManager(tmp_path / "run", copy_in_background=copy_in_background) as manager:
        for number in range(5):
            manager.save(number, {"state": state, "host": host})
            state = step(state)
            host += 1
        manager.save(5, {"state": state, "host": host})
        for leaf in jax.tree.leaves(state):
            leaf.delete()
        manager.wait_until_finished()
        for number in range(6):
            got = manager.restore(number)
            for leaf in (got["state"]["one"], got["state"]["rows"], got["host"]):
                assert (leaf == number).all()


def test_no_array_is_held_once_a_save_has_ended(manager):
    step = jax.jit(lambda w: w * 2, donate_argnums=0)
    w = jnp.ones(1 << 20) + 0
    place_in_memory = w.unsafe_buffer_pointer()
    manager.save(1, {"w": w})
    manager.wait_until_finished()
    assert step(w).unsafe_buffer_pointer() == place_in_memory


def test_without_async_a_save_is_durable_on_return(tmp_path):
    with CheckpointManager(tmp_path / "run", enable_async_checkpointing=False) as manager:
        manager.save(1, tree(1))
        assert ckptd.load_variable(tmp_path / "run", "step") == 1


def test_each_save_is_told_in_the_log_and_nothing_is_printed(manager, caplog, capfd, monkeypatch):
    # Of all that the suite imports, something logs on its own, to a stream that is closed by now.
    monkeypatch.setattr(logging.getLogger(), "handlers", [caplog.handler])
    with caplog.at_level(logging.INFO, "ckptd.jax"):
        manager.save(7, tree(7))
        manager.wait_until_finished()
        manager.close()
    said = [record.getMessage() for record in caplog.records if record.name == "ckptd.jax"]
    assert len(said) == 2
    assert said[0].startswith("step 7: training stood still for")
    assert "durable in" in said[1]
    assert capfd.readouterr() == ("", "")


def test_a_failed_save_is_raised_by_the_next_call_or_by_check_for_errors(tmp_path):
    with CheckpointManager(tmp_path / "run") as manager:
        manager.save(1, tree(1))
        manager.wait_until_finished()
        # Somebody else's file stands where the next index has to go.
        (tmp_path / "run" / "model.ckpt-2.index").write_bytes(b"x")
        manager.save(2, tree(2))
        eventually(lambda: not manager.is_saving_in_progress())
        with pytest.raises(ckptd.CkptdError):
            manager.check_for_errors()
        assert manager.save(3, tree(3))


def test_orbax_options_are_understood(tmp_path):
    options = ocp.CheckpointManagerOptions(
        max_to_keep=2, save_interval_steps=2, keep_period=6, keep_time_interval=datetime.timedelta(hours=3)
    )
    with CheckpointManager(tmp_path / "run", options=options) as manager:
        ours = manager.options
        assert isinstance(ours, CheckpointManagerOptions)
        assert (ours.max_to_keep, ours.save_interval_steps, ours.keep_period) == (2, 2, 6)
        assert ours.keep_time_interval == datetime.timedelta(hours=3)
    with CheckpointManager(tmp_path / "run", options=ocp.CheckpointManagerOptions(read_only=True)) as manager:
        assert manager.options.read_only
    with pytest.raises(InvalidRequestError, match="best_fn"):
        CheckpointManager(tmp_path / "run", options=ocp.CheckpointManagerOptions(best_fn=lambda metrics: 0.0))


def test_a_program_that_was_written_for_orbax_changes_one_line(tmp_path):
    def program(manager):
        """Save, and restore onto what `jax.eval_shape` describes, all of it in Orbax's words."""
        state, meta = {"w": jnp.arange(4.0)}, {"epoch": 3, "name": "x", "loss": [0.5, 0.25]}
        abstract = jax.eval_shape(lambda: state)
        for step in range(3):
            manager.save(
                step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
            )
        manager.wait_until_finished()
        wanted = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore())
        got = manager.restore(manager.latest_step(), args=wanted)
        return [manager.all_steps(), got.state["w"].tolist(), got["meta"], manager.restore(0, args=wanted).meta]

    options = ocp.CheckpointManagerOptions(max_to_keep=2, save_interval_steps=1, keep_period=2)
    names = ("state", "meta")
    with ocp.CheckpointManager(tmp_path / "orbax", options=options, item_names=names) as manager:
        theirs = program(manager)
    with CheckpointManager(tmp_path / "ours", options=options, item_names=names) as manager:
        ours = program(manager)
    assert ours == theirs
    with CheckpointManager(tmp_path / "single") as manager:
        manager.save(1, args=ocp.args.StandardSave(tree(1)))
        manager.wait_until_finished()
        assert manager.restore(1, args=ocp.args.StandardRestore(tree(0)))["step"] == 1


def test_options_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(InvalidRequestError, match="max_to_kepe"):
        CheckpointManager(tmp_path, max_to_kepe=3)
    for wrong in ({"save_interval_steps": 0}, {"max_to_keep": 0}, {"keep_time_interval": datetime.timedelta(0)}):
        with pytest.raises(InvalidRequestError, match=next(iter(wrong))):
            CheckpointManager(tmp_path, **wrong)


PLACES = [
    (("/a/b/c", None, None), ("/a/b", "c")),
    (("/a/b/c/", None, "runs/x"), ("/a/b/c/", "runs/x")),
    (("/a/b", "127.0.0.1:7070", None), ("127.0.0.1:7070", "a/b")),
    (("runs/x", "127.0.0.1:7070", None), ("127.0.0.1:7070", "runs/x")),
    (("127.0.0.1:7070", None, "runs/x"), ("127.0.0.1:7070", "runs/x")),
    (("s3://bucket/a/b", None, None), ("s3://bucket/a", "b")),
    (("/c", None, None), ("/", "c")),
]


@pytest.mark.parametrize(("given", "found"), PLACES)
def test_one_path_tells_address_and_run(given, found, monkeypatch):
    monkeypatch.delenv("CKPTD_ADDRESS", raising=False)
    assert place(*given) == found


def test_a_place_that_names_no_run_is_refused():
    for given in (("grpc://127.0.0.1:7070", None, None), ("/", None, None), ("s3://bucket", None, None)):
        with pytest.raises(InvalidRequestError):
            place(*given)


def test_the_environment_names_a_daemon_for_all_ranks(tmp_path, monkeypatch):
    (tmp_path / "root").mkdir()
    daemon = Daemon(tmp_path / "root", lease_s=1.0, declare_timeout_s=60.0)
    monkeypatch.setenv("CKPTD_ADDRESS", daemon.address)
    try:
        managers = [
            CheckpointManager("runs/x", rank=rank, world_size=2, max_to_keep=1, keep_period=2) for rank in range(2)
        ]
        for step in (1, 2, 3):
            for rank, manager in enumerate(managers):
                part = ckptd.Slice(np.full(2, rank), full_shape=(4,), start=(2 * rank,))
                assert manager.save(step, {"w": part, "step": step})
        for manager in managers:
            manager.wait_until_finished()
        eventually(lambda: managers[0].all_steps() == [2, 3], "the end of step 1")
        for manager in managers:
            assert manager.restore(3)["w"].tolist() == [0, 0, 1, 1]
        managers[0].delete(2)
        managers[1].delete(2)
        assert managers[1].all_steps() == [3]
        for manager in managers:
            manager.close()
    finally:
        daemon.stop()
    assert ckptd.load_variable(tmp_path / "root" / "runs" / "x", "step") == 3
