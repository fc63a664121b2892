"""Every option of Orbax's manager is followed as there, or refused; and what its manager does, case by case."""

from __future__ import annotations

import dataclasses
import datetime

import pytest

jax = pytest.importorskip("jax")
ocp = pytest.importorskip("orbax.checkpoint")

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.experimental import multihost_utils  # noqa: E402
from orbax.checkpoint import checkpoint_managers as policies  # noqa: E402

import ckptd.jax  # noqa: E402
from ckptd.errors import InvalidRequestError  # noqa: E402

MANAGERS = {"stock": ocp.CheckpointManager, "ours": ckptd.jax.CheckpointManager}
each_manager = pytest.mark.parametrize("manager_of", MANAGERS.values(), ids=MANAGERS.keys())
Options = ocp.CheckpointManagerOptions


def args(step=0):
    return ocp.args.StandardSave({"w": jnp.full(2, float(step))})


def each_third(step, latest):
    assert latest is None or latest < step
    return step % 3 == 0


FOLLOWED = {
    "save_interval_steps": {"save_interval_steps": 2},
    "save_on_steps": {"save_on_steps": [1, 4], "save_interval_steps": 3},
    "should_save_fn": {"should_save_fn": each_third},
    "max_to_keep": {"max_to_keep": 2},
    "keep_period": {"max_to_keep": 1, "keep_period": 2},
    "keep_time_interval": {"max_to_keep": 1, "keep_time_interval": datetime.timedelta(hours=5)},
    "enable_async_checkpointing": {"enable_async_checkpointing": False, "max_to_keep": 2},
    "enable_background_delete": {"enable_background_delete": True, "max_to_keep": 2},
    "num_deletion_threads": {"num_deletion_threads": 2, "max_to_keep": 2},
    "best_mode": {"best_mode": "min", "max_to_keep": 2},
    "keep_checkpoints_without_metrics": {"keep_checkpoints_without_metrics": False, "max_to_keep": 2},
    "prevent_write_metrics": {"prevent_write_metrics": True},
    "create": {"create": False},
    "cleanup_tmp_directories": {"cleanup_tmp_directories": True},
    "save_root_metadata": {"save_root_metadata": False},
    "lightweight_initialize": {"lightweight_initialize": True},
    "fixed intervals": {"save_decision_policy": policies.FixedIntervalPolicy(2), "save_interval_steps": 5},
    "any policy": {
        "save_decision_policy": policies.AnySavePolicy(
            [policies.SpecificStepsPolicy([4]), policies.FixedIntervalPolicy(3), policies.InitialSavePolicy()]
        )
    },
    "the initial save alone": {"save_decision_policy": policies.InitialSavePolicy()},
    "whenever none is under way": {
        "save_decision_policy": policies.ContinuousCheckpointingPolicy(),
        "enable_async_checkpointing": False,
    },
    "one in a long while": {
        "save_decision_policy": policies.ContinuousCheckpointingPolicy(minimum_interval_secs=1000),
        "enable_should_save_is_saving_in_progress_check": False,
    },
    "the latest n": {"preservation_policy": policies.LatestN(2)},
    "by time": {
        "preservation_policy": policies.AnyPreservationPolicy([policies.EveryNSeconds(1000), policies.LatestN(1)])
    },
    "by steps": {
        "preservation_policy": policies.AnyPreservationPolicy(
            [policies.EveryNSteps(3), policies.CustomSteps([1]), policies.LatestN(1)]
        )
    },
    "the best, of none that is measured": {
        "preservation_policy": policies.BestN(get_metric_fn=lambda metrics: metrics["loss"], n=1)
    },
}


@pytest.mark.parametrize("given", FOLLOWED.values(), ids=FOLLOWED.keys())
def test_an_option_is_followed_as_with_orbax(tmp_path, given):
    found = []
    for name, manager_of in MANAGERS.items():
        with manager_of(tmp_path / name, options=Options(**given)) as manager:
            saved = [step for step in range(1, 7) if _saves(manager, step)]
            found.append((saved, manager.all_steps(), manager.latest_step()))
        with manager_of(tmp_path / name, options=Options(**given)) as manager:
            found[-1] += (_saves(manager, 6), _saves(manager, 12), manager.all_steps())
    stock, ours = found
    assert ours == stock


def _saves(manager, step):
    is_saved = manager.save(step, args=args(step))
    manager.wait_until_finished()
    return is_saved


REFUSED = {
    "best_fn": (lambda metrics: metrics["loss"], r"checkpointer.pin\(step\)"),
    "step_prefix": ("ckpt", "name=…"),
    "step_format_fixed_length": (8, "step_format_fixed_length"),
    "step_name_format": (ocp.path.step.standard_name_format(step_prefix="s"), "name=…"),
    "todelete_subdir": ("trash", "moved"),
    "todelete_full_path": ("trash", "moved"),
    "temporary_path_class": (ocp.path.atomicity.CommitFileTemporaryPath, "whole or not at all")
    if hasattr(ocp.path, "atomicity")
    else (object, "whole or not at all"),
    "atomicity_options": (object(), "whole or not at all"),
    "multiprocessing_options": (ocp.options.MultiprocessingOptions(primary_host=None), "multiprocessing_options"),
    "file_options": (ocp.options.FileOptions(path_permission_mode=0o700), "file_options"),
    "async_options": (ocp.AsyncOptions(barrier_sync_fn=lambda key, timeout: None), "barrier_sync_fn"),
    "save_decision_policy": (policies.FixedIntervalPolicy, "should_save"),
    "preservation_policy": (policies.LatestN, "should_preserve"),
}
WITHOUT_EFFECT_ON_ONE_PROCESS = {"enable_per_process_directory_creation", "single_host_load_and_broadcast", "read_only"}


@pytest.mark.parametrize("name", REFUSED)
def test_an_option_without_counterpart_is_refused_with_a_way_on(tmp_path, name):
    value, said = REFUSED[name]
    with pytest.raises(InvalidRequestError, match=said):
        ckptd.jax.CheckpointManager(tmp_path / "run", options=Options(**{name: value}))
    assert not (tmp_path / "run").exists()


def test_no_option_of_orbax_is_left_out_here():
    tried = {name for given in FOLLOWED.values() for name in given} | set(REFUSED) | WITHOUT_EFFECT_ON_ONE_PROCESS
    assert {field.name for field in dataclasses.fields(Options)} <= tried


@pytest.mark.parametrize("more", [{"max_to_keep": 1}, {"keep_period": 2}], ids=repr)
@each_manager
def test_a_preservation_policy_stands_alone(tmp_path, manager_of, more):
    with pytest.raises(ValueError, match="preservation_policy"):
        manager_of(tmp_path / "run", options=Options(preservation_policy=policies.LatestN(1), **more))


def test_the_newest_stays_whatever_a_policy_says_and_so_does_what_is_pinned(tmp_path):
    options = Options(preservation_policy=policies.CustomSteps([2]))
    with ckptd.jax.CheckpointManager(tmp_path, options=options) as manager:
        for step in range(1, 5):
            manager.save(step, args=args(step))
            if step == 3:
                manager.checkpointer.pin(3)
        assert manager.all_steps() == [2, 3, 4]


def test_what_a_killed_process_had_no_time_to_delete_is_deleted_by_the_next(tmp_path):
    with ckptd.jax.CheckpointManager(tmp_path) as manager:
        for step in range(1, 5):
            manager.save(step, args=args(step))
    with ckptd.jax.CheckpointManager(tmp_path, preservation_policy=policies.LatestN(1)) as manager:
        assert not manager.should_save(4)
        assert manager.all_steps() == [4]


def test_a_policy_that_does_not_answer_for_each_is_told_so(tmp_path):
    class Short:
        def should_preserve(self, checkpoints, *, context):
            return []

    manager = ckptd.jax.CheckpointManager(tmp_path, preservation_policy=Short())
    manager.save(1, args=args())
    with pytest.raises(InvalidRequestError, match="preservation_policy answers for each of 1"):
        manager.wait_until_finished()
    manager.close()


@each_manager
def test_a_callback_is_called_for_each_save_that_is_durable(tmp_path, manager_of):
    called = []
    options = Options(
        async_options=ocp.AsyncOptions(timeout_secs=77, post_finalization_callback=lambda: called.append(1))
    )
    with manager_of(tmp_path / "run", options=options) as manager:
        for count in (1, 2):
            manager.save(count, args=args())
            manager.wait_until_finished()
            assert len(called) == count
        if manager_of is ckptd.jax.CheckpointManager:
            assert manager.checkpointer.timeout_s == 77


@pytest.mark.parametrize(
    "decides", [{"save_interval_steps": 4}, {"should_save_fn": lambda step, latest: step % 4 == 0}]
)
@each_manager
def test_preemption_saves_against_the_interval(tmp_path, manager_of, monkeypatch, decides):
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", lambda step: step == 2)
    with manager_of(tmp_path / "run", options=Options(**decides)) as manager:
        assert [step for step in range(9) if _saves(manager, step)] == [0, 2, 4, 8]


@each_manager
def test_a_step_is_saved_once_and_the_first_one_stays(tmp_path, manager_of):
    with manager_of(tmp_path / "run") as manager:
        assert manager.save(3, args=args(3))
        assert not manager.save(3, args=args(4))
        with pytest.raises(ValueError, match="3"):
            manager.save(3, args=args(4), force=True)
        manager.wait_until_finished()
        restored = manager.restore(3, args=ocp.args.StandardRestore({"w": jnp.zeros(2)}))
        assert np.asarray(restored["w"]).tolist() == [3, 3]


@each_manager
def test_another_manager_sees_new_steps_when_it_looks_again(tmp_path, manager_of):
    with manager_of(tmp_path / "run") as writer, manager_of(tmp_path / "run") as other:
        assert other.latest_step() is None
        writer.save(5, args=args())
        writer.wait_until_finished()
        other.reload()
        assert (other.latest_step(), other.all_steps(read=True)) == (5, [5])
        assert not other.should_save(5)


@each_manager
def test_one_that_only_reads_restores_and_saves_nothing(tmp_path, manager_of):
    with manager_of(tmp_path / "run") as writer:
        writer.save(1, args=args(1))
        writer.save(2, args=args(2))
    options = Options(save_interval_steps=0, create=False, read_only=True)
    with manager_of(tmp_path / "run", options=options) as reader:
        assert not reader.should_save(3)
        assert not reader.save(3, args=args(3))
        assert reader.restore(1, args=ocp.args.StandardRestore({"w": jnp.zeros(2)}))["w"].tolist() == [1, 1]
        if manager_of is ocp.CheckpointManager:
            reader.delete(1)  # without a word
        else:
            with pytest.raises(InvalidRequestError, match="read only"):
                reader.delete(1)
        assert reader.all_steps() == [1, 2]


@each_manager
def test_an_older_step_is_deleted(tmp_path, manager_of):
    with manager_of(tmp_path / "run") as manager:
        for step in (1, 2, 3):
            manager.save(step, args=args(step))
        manager.wait_until_finished()
        manager.delete(1)
        assert manager.all_steps() == [2, 3]
        with pytest.raises(FileNotFoundError):
            manager.restore(1, args=ocp.args.StandardRestore({"w": jnp.zeros(2)}))


LEGACY = {
    "checkpointers": lambda place: ckptd.jax.CheckpointManager(place, ocp.PyTreeCheckpointer(), Options()),
    "item_handlers": lambda place: ckptd.jax.CheckpointManager(place, item_handlers=ocp.StandardCheckpointHandler()),
    "metadata": lambda place: ckptd.jax.CheckpointManager(place, metadata={"version": 1}),
    "save_kwargs": lambda place: ckptd.jax.CheckpointManager(place).save(1, {}, save_kwargs={"save_args": {}}),
    "restore_kwargs": lambda place: ckptd.jax.CheckpointManager(place).restore(1, restore_kwargs={"restore_args": {}}),
    "directory": lambda place: ckptd.jax.CheckpointManager(place).restore(1, directory=place),
}


@pytest.mark.parametrize("name", LEGACY)
def test_arguments_of_older_programs_are_refused_with_a_way_on(tmp_path, name):
    with pytest.raises(InvalidRequestError, match=f"{name}= has no counterpart in ckptd: ."):
        LEGACY[name](tmp_path / "run")
    with pytest.raises(TypeError, match="savee"):
        ckptd.jax.CheckpointManager(tmp_path / "run").save(1, {}, savee=1)


def test_of_each_span_of_time_one_stays_though_the_job_was_begun_again(tmp_path):
    options = Options(max_to_keep=1, keep_time_interval=datetime.timedelta(microseconds=1))
    for first in (1, 4):
        with ckptd.jax.CheckpointManager(tmp_path, options=options) as manager:
            for step in range(first, first + 3):
                manager.save(step, args=args(step))
    long = dataclasses.replace(options, keep_time_interval=datetime.timedelta(days=300))
    with ckptd.jax.CheckpointManager(tmp_path, options=long) as manager:
        for step in (7, 8, 9):
            manager.save(step, args=args(step))
        assert manager.all_steps() == [1, 2, 3, 4, 5, 6, 9]
