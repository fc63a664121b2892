"""What the classic tutorials on saving with TensorFlow show, with TensorFlow's Saver and with ours: the same results.

Every function below is a program of such a tutorial, with `Saver` and `import_meta_graph` left open. It is run
twice, in two empty directories, and has to come to the same results and leave the same bytes.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf
from tensorflow.python.training import saver as tensorflow_saver

from ckptd import tensorflow as ckptd_tensorflow
from tests.fakes.clock import HandClock

v1 = tf.compat.v1

THEIRS = SimpleNamespace(Saver=v1.train.Saver, import_meta_graph=v1.train.import_meta_graph)
OURS = SimpleNamespace(Saver=ckptd_tensorflow.Saver, import_meta_graph=ckptd_tensorflow.import_meta_graph)


def two_variables():
    first = v1.Variable(tf.constant(1.0, shape=[1]), name="v1")
    second = v1.Variable(tf.constant(2.0, shape=[1]), name="v2")
    return first, second


def save_the_sum(kind):
    """Save `v1`, `v2` and the operation `add`, in a graph of its own."""
    with tf.Graph().as_default(), v1.Session() as session:
        first, second = two_variables()
        tf.add(first, second, name="add")
        session.run(v1.global_variables_initializer())
        return kind.Saver().save(session, "./model/model.ckpt")


def save_and_restore(kind):
    saved = save_the_sum(kind)
    with tf.Graph().as_default(), v1.Session() as session:
        first, second = two_variables()
        result = first + second
        kind.Saver().restore(session, "./model/model.ckpt")
        return saved, session.run(result)


def restore_by_the_meta_graph(kind):
    save_the_sum(kind)
    with tf.Graph().as_default() as graph, v1.Session() as session:
        saver = kind.import_meta_graph("./model/model.ckpt.meta")
        saver.restore(session, "./model/model.ckpt")
        return session.run(graph.get_tensor_by_name("add:0")), [v.name for v in v1.global_variables()]


def variables_under_other_names(kind):
    save_the_sum(kind)
    with tf.Graph().as_default(), v1.Session() as session:
        u1 = v1.Variable(tf.constant(1.0, shape=[1]), name="other-v1")
        u2 = v1.Variable(tf.constant(2.0, shape=[1]), name="other-v2")
        result = u1 + u2
        saver = kind.Saver({"v1": u1, "v2": u2})
        saver.restore(session, "./model/model.ckpt")
        return session.run(result)


def moving_averages(kind):
    with tf.Graph().as_default(), v1.Session() as session:
        v = v1.Variable(0, dtype=tf.float32, name="v")
        average = tf.train.ExponentialMovingAverage(0.99)
        maintain = average.apply(v1.global_variables())
        saver = kind.Saver()
        session.run(v1.global_variables_initializer())
        session.run(v1.assign(v, 10))
        session.run(maintain)
        saver.save(session, "./model/model.ckpt")
        seen = session.run([v, average.average(v)])
    with tf.Graph().as_default(), v1.Session() as session:
        v = v1.Variable(0, dtype=tf.float32, name="v")
        average = tf.train.ExponentialMovingAverage(0.99)
        saver = kind.Saver(average.variables_to_restore())
        saver.restore(session, "./model/model.ckpt")
        return seen, session.run(v), sorted(average.variables_to_restore())


def some_of_the_variables(kind):
    save_the_sum(kind)
    with tf.Graph().as_default(), v1.Session() as session:
        first, second = two_variables()
        new = v1.Variable(tf.constant(7.0, shape=[1]), name="v3")
        session.run(v1.global_variables_initializer())
        session.run(first.assign([5.0]))
        kind.Saver([first]).restore(session, "./model/model.ckpt")
        return session.run([first, second, new])


def save_what_is_fed(kind):
    """The program that the next ones continue: w1, w2 are fed, b1 is a variable."""
    with tf.Graph().as_default(), v1.Session() as session:
        w1 = v1.placeholder("float", name="w1")
        w2 = v1.placeholder("float", name="w2")
        b1 = v1.Variable(2.0, name="bias")
        w4 = tf.multiply(tf.add(w1, w2), b1, name="op_to_restore")
        session.run(v1.global_variables_initializer())
        saver = kind.Saver()
        shown = session.run(w4, {w1: 4, w2: 8})
        return shown, saver.save(session, "./my_test_model", global_step=1000)


def placeholders_fed_again(kind):
    before = save_what_is_fed(kind)
    with tf.Graph().as_default() as graph, v1.Session() as session:
        saver = kind.import_meta_graph("my_test_model-1000.meta")
        saver.restore(session, tf.train.latest_checkpoint("./"))
        w1, w2 = graph.get_tensor_by_name("w1:0"), graph.get_tensor_by_name("w2:0")
        return before, session.run(graph.get_tensor_by_name("op_to_restore:0"), {w1: 13.0, w2: 17.0})


def added_operations(kind):
    save_what_is_fed(kind)
    with tf.Graph().as_default() as graph, v1.Session() as session:
        saver = kind.import_meta_graph("my_test_model-1000.meta")
        saver.restore(session, tf.train.latest_checkpoint("./"))
        w1, w2 = graph.get_tensor_by_name("w1:0"), graph.get_tensor_by_name("w2:0")
        on_top = tf.multiply(graph.get_tensor_by_name("op_to_restore:0"), 2)
        return session.run(on_top, {w1: 13.0, w2: 17.0})


def partial_fine_tuning(kind):
    """A trained layer is frozen, and a new one on top is trained and saved with it."""
    v1.set_random_seed(7)
    data = np.random.default_rng(3).normal(size=(16, 4)).astype(np.float32)
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, (None, 4), name="x")
        kernel = v1.get_variable("fc7/kernel", initializer=np.linspace(-1, 1, 20, dtype=np.float32).reshape(4, 5))
        tf.nn.relu(tf.matmul(x, kernel), name="fc7/out")
        session.run(v1.global_variables_initializer())
        kind.Saver().save(session, "./vgg/vgg.ckpt", global_step=1)
    with tf.Graph().as_default() as graph, v1.Session() as session:
        saver = kind.import_meta_graph("./vgg/vgg.ckpt-1.meta")
        features = tf.stop_gradient(graph.get_tensor_by_name("fc7/out:0"))
        top = v1.get_variable("top/kernel", initializer=np.ones((5, 2), np.float32))
        loss = tf.reduce_mean(tf.square(tf.matmul(features, top) - 1.0))
        train = v1.train.GradientDescentOptimizer(0.1).minimize(loss, var_list=[top])
        session.run(v1.global_variables_initializer())
        saver.restore(session, "./vgg/vgg.ckpt-1")
        for _ in range(5):
            session.run(train, {"x:0": data})
        kind.Saver().save(session, "./tuned/tuned.ckpt", global_step=5)
        return session.run(v1.global_variables())


def freezing_after_a_restore(kind):
    save_the_sum(kind)
    with tf.Graph().as_default() as graph, v1.Session() as session:
        kind.import_meta_graph("./model/model.ckpt.meta", clear_devices=True).restore(session, "./model/model.ckpt")
        constant = v1.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), ["add"])
        tf.io.write_graph(constant, ".", "combined.pb", as_text=False)
    with tf.Graph().as_default(), v1.Session() as session:
        read = v1.GraphDef.FromString(Path("combined.pb").read_bytes())
        (result,) = tf.import_graph_def(read, return_elements=["add:0"])
        return session.run(result)


def epochs_as_steps(kind):
    with tf.Graph().as_default(), v1.Session() as session:
        weight = v1.get_variable("w", initializer=1.0)
        step = v1.assign_add(weight, 1.0)
        session.run(v1.global_variables_initializer())
        saver = kind.Saver(max_to_keep=4)
        listed = []
        for epoch in range(7):
            session.run(step)
            saver.save(session, "./model/model.ckpt", global_step=epoch)
            listed.append(saver.last_checkpoints)
    with tf.Graph().as_default(), v1.Session() as session:
        weight = v1.get_variable("w", initializer=1.0)
        state = tf.train.get_checkpoint_state("./model")
        kind.Saver().restore(session, state.all_model_checkpoint_paths[1])
        return listed, session.run(weight), tf.train.latest_checkpoint("./model")


def a_graph_written_once(kind):
    with tf.Graph().as_default(), v1.Session() as session:
        weight = v1.get_variable("w", initializer=1.0)
        session.run(v1.global_variables_initializer())
        saver = kind.Saver([weight])
        saver.export_meta_graph("./model.meta")
        return [saver.save(session, "./my-model", global_step=step, write_meta_graph=False) for step in (1, 2)]


PROGRAMS = [
    save_and_restore,
    restore_by_the_meta_graph,
    variables_under_other_names,
    moving_averages,
    some_of_the_variables,
    save_what_is_fed,
    placeholders_fed_again,
    added_operations,
    partial_fine_tuning,
    freezing_after_a_restore,
    epochs_as_steps,
    a_graph_written_once,
]


def run_in(directory, monkeypatch, program, kind):
    directory.mkdir()
    monkeypatch.chdir(directory)
    result = program(kind)
    files = {str(path.relative_to(directory)): path for path in sorted(directory.rglob("*")) if path.is_file()}
    return result, {name: read(path) for name, path in files.items()}


def read(path):
    """Return a file's bytes; of a graph, all but the functions, which are numbered through the whole process."""
    if path.suffix != ".meta":
        return path.read_bytes()
    described = v1.MetaGraphDef.FromString(path.read_bytes())
    nodes = [(node.name, node.op, list(node.input), node.device) for node in described.graph_def.node]
    collections = {key: str(described.collection_def[key]) for key in described.collection_def}
    return nodes, collections, str(described.saver_def), str(described.meta_info_def)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_the_program_of_a_tutorial_does_the_same_with_ours(tmp_path, monkeypatch, program):
    theirs, expected = run_in(tmp_path / "theirs", monkeypatch, program, THEIRS)
    ours, found = run_in(tmp_path / "ours", monkeypatch, program, OURS)
    np.testing.assert_equal(ours, theirs)
    assert sorted(found) == sorted(expected)
    assert [name for name in found if found[name] != expected[name]] == []


@pytest.mark.parametrize("program", [restore_by_the_meta_graph, placeholders_fed_again, moving_averages])
def test_what_one_of_the_two_has_saved_the_other_restores(tmp_path, monkeypatch, program):
    """Whoever makes the second Saver of a program is not who made the first."""

    def mixed(first, second):
        makers = iter([first])
        return SimpleNamespace(
            Saver=lambda *args, **kwargs: next(makers, second).Saver(*args, **kwargs),
            import_meta_graph=second.import_meta_graph,
        )

    expected = run_in(tmp_path / "alike", monkeypatch, program, THEIRS)
    for name, kind in (("ours first", mixed(OURS, THEIRS)), ("theirs first", mixed(THEIRS, OURS))):
        np.testing.assert_equal(run_in(tmp_path / name, monkeypatch, program, kind), expected)


def test_four_stay_and_one_of_every_two_hours(tmp_path, monkeypatch):
    def train(kind, clock, options):
        with tf.Graph().as_default(), v1.Session() as session:
            v1.get_variable("w", initializer=1.0)
            session.run(v1.global_variables_initializer())
            saver = kind.Saver(max_to_keep=4, keep_checkpoint_every_n_hours=2, **options)
            listed = []
            for step in range(0, 1200, 100):
                clock.advance(1500.25)
                saver.save(session, "./m", global_step=step, write_meta_graph=False)
                listed.append(saver.last_checkpoints)
            return listed

    clock = HandClock()
    monkeypatch.setattr(tensorflow_saver, "time", SimpleNamespace(time=clock.wall_s))
    theirs, expected = run_in(tmp_path / "theirs", monkeypatch, lambda kind: train(kind, clock, {}), THEIRS)
    clock = HandClock()
    ours, found = run_in(tmp_path / "ours", monkeypatch, lambda kind: train(kind, clock, {"clock": clock}), OURS)
    assert ours == theirs
    assert found == expected
    assert len([name for name in found if name.endswith(".index")]) > 4
