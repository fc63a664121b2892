from __future__ import annotations

import os

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf
from tensorflow.python.training import basic_session_run_hooks

import ckptd
from ckptd.tensorflow import CheckpointSaverHook, Saver
from tests.fakes.clock import HandClock

v1 = tf.compat.v1
Session = v1.train.MonitoredTrainingSession


class Listener(v1.train.CheckpointSaverListener):
    def __init__(self, stops_at=None):
        self.told = []
        self._stops_at = stops_at

    def begin(self):
        self.told.append("begin")

    def before_save(self, session, step):
        self.told.append(f"before {step}")

    def after_save(self, session, step):
        self.told.append(f"after {step}")
        return step == self._stops_at

    def end(self, session, step):
        self.told.append(f"end {step}")


def train(directory, hook, until, *, clock=None, **options):
    """Count in a session until the step is `until` or a stop is asked for; return the value of the variable."""
    with tf.Graph().as_default():
        v1.train.get_or_create_global_step()
        w = v1.get_variable("w", initializer=np.zeros(2), use_resource=False)
        count = v1.train.get_or_create_global_step().assign_add(1)
        with tf.control_dependencies([count]):
            step = v1.assign_add(w, [1.0, 2.0])
        hooks = [hook, v1.train.StopAtStepHook(last_step=until)]
        with Session(
            checkpoint_dir=directory,
            save_checkpoint_secs=None,
            save_checkpoint_steps=None,
            save_summaries_steps=None,
            log_step_count_steps=None,
            hooks=hooks,
            **options,
        ) as session:
            while not session.should_stop():
                if clock is not None:
                    clock.advance(97)
                value = session.run(step)
        return value.tolist()


def saved(directory, kind=".index"):
    """Return the steps whose files are there, in their order."""
    return sorted(int(path.name.split("-")[1].split(".")[0]) for path in directory.glob(f"*{kind}"))


def listed(directory):
    state = tf.train.get_checkpoint_state(str(directory))
    return [int(path.rpartition("-")[2]) for path in state.all_model_checkpoint_paths]


def test_it_saves_first_periodically_and_last_and_a_restart_goes_on_with_the_list(tmp_path):
    both = {}
    for name, kind in (("theirs", v1.train.CheckpointSaverHook), ("ours", CheckpointSaverHook)):
        directory, listener = tmp_path / name, Listener()
        train(str(directory), kind(str(directory), save_steps=4, listeners=[listener]), 10)
        first = saved(directory), listed(directory)
        value = train(str(directory), kind(str(directory), save_steps=4, listeners=[listener]), 13)
        files = {path.name for path in directory.iterdir() if "tfevents" not in path.name}
        both[name] = first, saved(directory), listed(directory), value, files, listener.told
    assert both["ours"] == both["theirs"]
    assert both["ours"][:4] == (([0, 4, 8, 10], [0, 4, 8, 10]), [0, 4, 8, 10, 13], [0, 4, 8, 10, 13], [13, 26])


def test_without_a_number_it_saves_every_six_hundred_seconds_and_keeps_five(tmp_path, monkeypatch):
    clock = HandClock()
    monkeypatch.setattr(basic_session_run_hooks.time, "time", clock.wall_s)
    train(str(tmp_path), CheckpointSaverHook(tmp_path), 45, clock=clock)
    assert listed(tmp_path) == saved(tmp_path) == [21, 28, 35, 42, 45]
    assert (tmp_path / "checkpoint").read_text().startswith('model_checkpoint_path: "model.ckpt-45"\n')


def test_a_listener_may_stop_the_training(tmp_path):
    listener = Listener(stops_at=4)
    value = train(str(tmp_path), CheckpointSaverHook(tmp_path, save_steps=2, listeners=[listener]), 10)
    assert value == [4, 8]
    assert listener.told[-1] == "end 4"


@pytest.mark.parametrize("kind", [Saver, v1.train.Saver])
def test_the_saver_of_a_scaffold_is_used_or_its_operations_are(tmp_path, monkeypatch, kind):
    """TensorFlow's writes nothing: what it would write with is never run."""
    monkeypatch.setattr(v1.train.Saver, "save", None)
    with tf.Graph().as_default():
        v1.train.get_or_create_global_step()
        w = v1.get_variable("w", initializer=np.ones(2), use_resource=False)
        count = v1.train.get_or_create_global_step().assign_add(1)
        scaffold = v1.train.Scaffold(
            saver=kind({"renamed": w, "global_step": v1.train.get_global_step()}, max_to_keep=2)
        )
        hook = CheckpointSaverHook(str(tmp_path), save_steps=1, scaffold=scaffold, wait=False)
        with Session(
            scaffold=scaffold,
            checkpoint_dir=str(tmp_path),
            save_checkpoint_secs=None,
            save_checkpoint_steps=None,
            save_summaries_steps=None,
            hooks=[hook, v1.train.StopAtStepHook(last_step=4)],
        ) as session:
            while not session.should_stop():
                session.run(count)
    assert saved(tmp_path) == saved(tmp_path, ".meta") == [3, 4]
    assert dict(ckptd.list_variables(tmp_path)) == {"global_step": [], "renamed": [2]}


def test_below_an_address_a_session_goes_on_where_the_run_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for until, value in ((3, [3, 6]), (5, [5, 10])):
        hook = CheckpointSaverHook("runs/a", save_steps=2, address=str(tmp_path / "store"), max_to_keep=3)
        assert train("runs/a", hook, until) == value
    assert saved(tmp_path / "store/runs/a") == [2, 3, 5]
    assert not list((tmp_path / "runs/a").glob("*.index"))


def test_what_excludes_each_other_is_refused_as_tensorflow_does(tmp_path):
    with pytest.raises(ValueError, match="Can not provide both every_secs and every_steps"):
        CheckpointSaverHook(str(tmp_path), save_secs=1, save_steps=1)
    with pytest.raises(ValueError, match="You cannot provide both saver and scaffold"):
        CheckpointSaverHook(str(tmp_path), saver=object(), scaffold=v1.train.Scaffold())
