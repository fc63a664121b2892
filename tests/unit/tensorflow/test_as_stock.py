"""One program with TensorFlow's classes and with ours: results, lists, files and errors are the same.

The cases follow what TensorFlow's own tests of the Saver and the manager look at, and Keras's of its callback.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf

from ckptd.errors import InvalidRequestError
from tests.unit.tensorflow.beside import OURS, STOCK, files

v1 = tf.compat.v1


def saving(body, **options):
    """A case that works with a Saver over a graph of two variables."""

    def case(side, at):
        with tf.Graph().as_default(), v1.Session() as session:
            v1.get_variable("w", initializer=1.0)
            v1.get_variable("steps", initializer=7)
            session.run(v1.global_variables_initializer())
            result = body(side, at, session, side.Saver(**options))
            return result, files(at)

    return case


def managing(body, **options):
    """A case that works with a manager over one variable, which counts steps, too."""

    def case(side, at):
        step = tf.Variable(0)
        manager = side.Manager(tf.train.Checkpoint(step=step), at, step_counter=step, **{"max_to_keep": 2, **options})
        return body(side, at, manager, step), files(at)

    return case


def closed_session(side, at, session, saver):
    session.close()
    saver.save(session, f"{at}/m")


def lists_are_copies(side, at, session, saver):
    saver.set_last_checkpoints_with_time([(f"{at}/a", 1.0)])
    saver.last_checkpoints.append("no effect?")
    before = saver.last_checkpoints
    saver.recover_last_checkpoints([f"{at}/absent"])
    return before, saver.last_checkpoints


def taken_over(side, at, session, saver):
    paths = [saver.save(session, f"{at}/m", global_step=step) for step in range(2)]
    later = side.Saver(max_to_keep=2)
    later.recover_last_checkpoints([*paths, f"{at}/absent"])
    later.save(session, f"{at}/m", global_step=1)
    later.save(session, f"{at}/m", global_step=2)
    return later.last_checkpoints


def imported_into_a_scope(side, at, session, saver):
    path = saver.save(session, f"{at}/m")
    with tf.Graph().as_default(), v1.Session() as other:
        side.import_meta_graph(f"{path}.meta", clear_devices=True, import_scope="again").restore(other, path)
        return [(each.name, float(other.run(each))) for each in v1.global_variables()]


def by_intervals(side, at, manager, step):
    saved = []
    for _ in range(6):
        saved += [manager.save(), manager.save(check_interval=False)]
        step.assign_add(1)
    return saved, manager.checkpoints, manager.latest_checkpoint


def with_files_deleted_by_someone(side, at, manager, step):
    manager.save()
    manager.save()
    for name in files(at):
        if name.startswith("ckpt-1."):
            os.remove(f"{at}/{name}")
    manager.save()
    return manager.checkpoints


def after_a_restart(side, at, manager, step):
    manager.save()
    manager.save()
    if side is OURS:
        manager.close()
    later = side.Manager(tf.train.Checkpoint(step=tf.Variable(0)), at, max_to_keep=2)
    return later.checkpoints, later.restore_or_initialize(), later.save(), later.checkpoints


def without_a_graph(side, at):
    variable = tf.Variable(1.0, name="a")
    saver = side.Saver([variable])
    path = saver.save(None, f"{at}/m", global_step=tf.Variable(4))
    variable.assign(3.0)
    saver.restore(None, path)
    return float(variable.numpy()), path, files(at)


class Timeline:
    """A manager under a clock that the test sets, and what is seen of it after every save."""

    def __init__(self, side, at, began_at):
        self.side, self.at, self.now = side, at, began_at
        self.checkpoint, self.seen, self.manager = tf.train.Checkpoint(), [], None

    def time(self):
        return self.now

    def start(self, **options):
        self.manager = None  # the one before is dropped
        self.manager = self.side.Manager(self.checkpoint, self.at, **options)
        self.look()

    def save_after(self, seconds):
        self.now += seconds
        self.manager.save()
        self.look()

    def look(self):
        state = v1.train.get_checkpoint_state(self.at)
        listed = state and (
            list(state.all_model_checkpoint_paths),
            list(state.all_model_checkpoint_timestamps),
            state.last_preserved_timestamp,
        )
        kept = [name for name in files(self.at) if name.endswith(".index")]
        self.seen.append((listed, self.manager.checkpoints, self.manager.latest_checkpoint, kept))


def under_a_clock(body, began_at):
    def case(side, at):
        line = Timeline(side, at, began_at)
        with mock.patch.object(time, "time", line.time):
            body(line)
            line.manager = None
        return line.seen

    return case


def hours_over_restarts(line):
    line.start(max_to_keep=2)
    line.save_after(10000.0)
    line.save_after(3610.0)
    line.start(max_to_keep=2, keep_checkpoint_every_n_hours=1.5)
    for seconds in (720.0, 1800.0, 1800.0):
        line.save_after(seconds)
    line.start(max_to_keep=2, keep_checkpoint_every_n_hours=1.5)
    line.save_after(10.0)


def clock_set_back(line):
    """What was saved at a later time than now may have been meant to stay: nobody knows, so all of it does."""
    line.start(max_to_keep=1, keep_checkpoint_every_n_hours=1.0)
    for seconds in (0.0, 3600.0, 3600.0):
        line.save_after(seconds)
    line.now = 5000.0
    line.start(max_to_keep=1)
    line.save_after(10.0)
    line.save_after(10.0)


def one_name_after_the_other(side, at):
    checkpoint = tf.train.Checkpoint(v=tf.Variable(1.0))
    manager = side.Manager(checkpoint, at, max_to_keep=2, checkpoint_name="other")
    paths = [manager.save(checkpoint_number=5)]
    manager = None
    manager = side.Manager(checkpoint, at, max_to_keep=2)
    paths += [manager.save(checkpoint_number=5), manager.save(checkpoint_number=6)]
    return paths, manager.checkpoints, files(at)


def functions_of(body):
    """A case that works with plain functions beside one checkpoint, called m."""

    def case(side, at):
        tf.train.Checkpoint(v=tf.Variable(1.0)).write(f"{at}/m")
        module = v1.train if side is STOCK else side.functions
        return body(module, at), files(at)

    return case


def state_in_full(module, at):
    state = module.get_checkpoint_state(at)
    return state and (state.model_checkpoint_path, list(state.all_model_checkpoint_paths))


def updated(*paths, **options):
    def body(module, at):
        module.update_checkpoint_state(at, *(path.format(at) for path in paths), **options)
        return state_in_full(module, at), Path(at, "checkpoint").read_text(), module.latest_checkpoint(at)

    return functions_of(body)


def with_a_state_file(text):
    def body(module, at):
        Path(at, "checkpoint").write_text(text)
        return state_in_full(module, at), module.latest_checkpoint(at)

    return functions_of(body)


ALIKE = {
    "hours over restarts": under_a_clock(hours_over_restarts, 3.0),
    "a clock that is set back": under_a_clock(clock_set_back, 10000.0),
    "one name after the other": one_name_after_the_other,
    "a number to keep of numpy": managing(
        lambda side, at, manager, step: [manager.save() for _ in range(3)], max_to_keep=np.int64(1)
    ),
    "nought hours": managing(
        lambda side, at, manager, step: [manager.save() for _ in range(3)], keep_checkpoint_every_n_hours=0
    ),
    "a state file made by hand": updated("{}/m"),
    "a state file of relative paths": updated("m", all_model_checkpoint_paths=["n", "m"]),
    "times for other paths": updated("{}/m", all_model_checkpoint_timestamps=[1.0, 2.0]),
    "paths relative to the state file": with_a_state_file(
        'model_checkpoint_path: "./m"\nall_model_checkpoint_paths: "./k"\nall_model_checkpoint_paths: "./m"\n'
    ),
    "a latest that is not there": with_a_state_file('model_checkpoint_path: "/absent/m-3"\n'),
    "an empty state file": with_a_state_file(""),
    "what exists": functions_of(
        lambda module, at: [module.checkpoint_exists(f"{at}/{name}") for name in ("m", "absent", "m.index")]
    ),
    "times of what is there": functions_of(
        lambda module, at: len(module.get_checkpoint_mtimes([f"{at}/m", f"{at}/absent"]))
    ),
    "what is removed": functions_of(lambda module, at: module.remove_checkpoint(f"{at}/m")),
    "a step that is a tensor": saving(lambda side, at, s, saver: saver.save(s, f"{at}/m", global_step=tf.constant(7))),
    "a step that is named": saving(lambda side, at, s, saver: saver.save(s, f"{at}/m", global_step="steps:0")),
    "a step of numpy": saving(lambda side, at, s, saver: saver.save(s, f"{at}/m", global_step=np.int64(7))),
    "a padded step": saving(lambda side, at, s, saver: saver.save(s, f"{at}/m", global_step=7), pad_step_number=True),
    "a step that is a fraction": saving(lambda side, at, s, saver: saver.save(s, f"{at}/m", global_step=7.0)),
    "a path of bytes": saving(lambda side, at, s, saver: saver.save(s, f"{at}/m".encode())),
    "another suffix": saving(lambda side, at, s, saver: saver.save(s, f"{at}/m", meta_graph_suffix="x.y")),
    "no meta": saving(
        lambda side, at, s, saver: saver.save(s, f"{at}/m", write_meta_graph=False, save_debug_info=True)
    ),
    "no state": saving(
        lambda side, at, s, saver: (saver.save(s, f"{at}/m", write_state=False), saver.last_checkpoints)
    ),
    "a state file elsewhere": saving(lambda side, at, s, saver: saver.save(s, f"{at}/m", latest_filename="a/b")),
    "a state file in the way": saving(lambda side, at, s, saver: saver.save(s, f"{at}/m", latest_filename="m")),
    "all are kept": saving(
        lambda side, at, s, saver: (
            [saver.save(s, f"{at}/m", global_step=step) for step in range(3)],
            saver.last_checkpoints,
            list(v1.train.get_checkpoint_state(at).all_model_checkpoint_paths),
        ),
        max_to_keep=0,
    ),
    "two names in turn": saving(
        lambda side, at, s, saver: (
            [saver.save(s, f"{at}/{name}", global_step=1) for name in "aba"],
            saver.last_checkpoints,
        ),
        max_to_keep=2,
    ),
    "a checkpoint that is not there": saving(lambda side, at, s, saver: saver.restore(s, f"{at}/absent")),
    "no path at all": saving(lambda side, at, s, saver: saver.restore(s, None)),
    "a closed session": saving(closed_session),
    "not built yet": saving(lambda side, at, s, saver: saver.save(s, f"{at}/m"), defer_build=True),
    "nothing to save": saving(lambda side, at, s, saver: None, var_list=[]),
    "lists": saving(lists_are_copies),
    "a list taken over": saving(taken_over, max_to_keep=3),
    "a graph in a scope": saving(imported_into_a_scope),
    "variables without a graph": without_a_graph,
    "a number that is a variable": managing(lambda side, at, manager, step: manager.save(tf.Variable(9))),
    "another name": managing(
        lambda side, at, manager, step: [manager.save() for _ in range(3)], checkpoint_name="abc", max_to_keep=1
    ),
    "intervals": managing(by_intervals, checkpoint_interval=2),
    "nothing is kept": managing(lambda side, at, manager, step: None, max_to_keep=0),
    "nothing there": managing(lambda side, at, manager, step: (manager.latest_checkpoint, manager.checkpoints)),
    "files deleted by someone": managing(with_files_deleted_by_someone),
    "a restart": managing(after_a_restart),
}


def outcome(case, side, at):
    """Return what a case returns, or the error that it ends with, without the directory's name."""
    at.mkdir()
    try:
        return repr(case(side, str(at))).replace(str(at), "DIR"), None
    except Exception as error:
        return None, error


@pytest.mark.parametrize("case", ALIKE.values(), ids=ALIKE.keys())
def test_both_do_the_same_or_fail_alike(tmp_path, case):
    (stock, failure), (ours, our_failure) = (
        outcome(case, side, tmp_path / name) for name, side in (("stock", STOCK), ("ours", OURS))
    )
    assert ours == stock
    if failure is not None:
        assert isinstance(our_failure, type(failure)), our_failure
        assert files(tmp_path / "ours") == files(tmp_path / "stock")


REFUSED = {
    "a step below zero": (
        saving(lambda side, at, s, saver: saver.save(s, f"{at}/m", global_step=-3)),
        "step out of range",
    ),
    "a path that is a directory's": (saving(lambda side, at, s, saver: saver.save(s, f"{at}/")), "names a directory"),
    "a number below zero": (managing(lambda side, at, manager, step: manager.save(-4)), "whole number from 0 on"),
}


@pytest.mark.parametrize(("case", "told"), REFUSED.values(), ids=REFUSED.keys())
def test_what_stock_takes_and_no_tool_reads_well_is_refused_in_words(tmp_path, case, told):
    assert outcome(case, STOCK, tmp_path / "stock")[1] is None
    failure = outcome(case, OURS, tmp_path / "ours")[1]
    assert isinstance(failure, InvalidRequestError)
    assert told in str(failure)
    assert files(tmp_path / "ours") == []
