"""Real TensorFlow's Saver and ours, side by side on the same operations and on each other's files."""

from __future__ import annotations

import os
from contextlib import contextmanager
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ckptd
from ckptd import tensorflow as ckptd_tensorflow
from tests.fakes.clock import HandClock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf
from tensorflow.python.training import saver as tensorflow_saver

v1 = tf.compat.v1

NAME = "model.ckpt"


class Theirs:
    """A graph with two variables, and TensorFlow's Saver over them."""

    def __init__(self, clock):
        self._time = mock.patch.object(tensorflow_saver, "time", SimpleNamespace(time=clock.wall_s))
        self._time.start()
        self._graph = tf.Graph()
        with self._graph.as_default():
            self.v = v1.get_variable("v", (3,), tf.float32, use_resource=False)
            self.n = v1.get_variable("n", (), tf.int64, use_resource=False)
            self._feed = v1.placeholder(tf.float32, (3,)), v1.placeholder(tf.int64, ())
            self._assign = [v1.assign(self.v, self._feed[0]), v1.assign(self.n, self._feed[1])]
        self._session = v1.Session(graph=self._graph)
        self.saver = None

    def build(self, **options):
        with self._graph.as_default():
            self.saver = v1.train.Saver({"v": self.v, "n": self.n}, **options)

    def save(self, path, step, value, **options):
        with self._graph.as_default():
            self._session.run(self._assign, dict(zip(self._feed, (np.full(3, value), value), strict=True)))
            return self.saver.save(self._session, path, step, write_meta_graph=False, **options)

    def restore(self, path):
        with self._graph.as_default():
            self.saver.restore(self._session, path)
            return self._session.run([self.v, self.n])

    def close(self):
        self._time.stop()
        self._session.close()

    get_state = staticmethod(tf.train.get_checkpoint_state)
    latest = staticmethod(tf.train.latest_checkpoint)
    remove = staticmethod(v1.train.remove_checkpoint)


class Ours:
    """Two arrays, and our Saver over them."""

    def __init__(self, clock):
        self._clock = clock
        self.v, self.n = np.zeros(3, np.float32), np.zeros((), np.int64)
        self.saver = None

    def build(self, **options):
        self.saver = ckptd.Saver({"v": self.v, "n": self.n}, clock=self._clock, **options)

    def save(self, path, step, value, **options):
        self.v[:] = self.n[...] = value
        return self.saver.save(path, step, **options)

    def restore(self, path):
        self.v[:] = self.n[...] = -1
        self.saver.restore(path)
        return [self.v, self.n]

    def close(self):
        pass

    get_state = staticmethod(ckptd.get_checkpoint_state)
    latest = staticmethod(ckptd.latest_checkpoint)
    remove = staticmethod(ckptd.remove_checkpoint)


class OursOverAGraph(Theirs):
    """The same graph, and `ckptd.tensorflow.Saver` over it."""

    def __init__(self, clock):
        super().__init__(clock)
        self._clock = clock

    def build(self, **options):
        with self._graph.as_default():
            self.saver = ckptd_tensorflow.Saver({"v": self.v, "n": self.n}, clock=self._clock, **options)


@contextmanager
def both_sides(kind=Ours):
    clock = HandClock()
    theirs, ours = Theirs(clock), kind(clock)
    try:
        yield clock, theirs, ours
    finally:
        ours.close()
        theirs.close()


@pytest.fixture
def sides():
    with both_sides() as sides:
        yield sides


def content(directory):
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def apply(side, operation, directory, now):
    """Do one operation; return what can be seen of it."""
    kind, *details = operation
    if kind == "build":
        side.build(**details[0])
        return None
    if kind == "restart":
        options, latest_filename = details
        side.build(**options)
        state = side.get_state(str(directory), latest_filename)
        if state is not None and side.latest(str(directory), latest_filename) is not None:
            side.restore(state.model_checkpoint_path)
            side.saver.recover_last_checkpoints(list(state.all_model_checkpoint_paths))
    if kind == "save":
        step, value, options = details
        prefix = side.save(str(directory / NAME), step, value, **options)
        os.utime(prefix + ".index", (now, now))
        return prefix.removeprefix(str(directory)), [
            path.removeprefix(str(directory)) for path in side.saver.last_checkpoints
        ]
    if kind == "remove":
        side.remove(f"{directory}/{NAME}-{details[0]}")
    if kind == "delete":
        for path in directory.glob(f"{NAME}-{details[0]}.*"):
            path.unlink()
        return None
    latest = side.latest(str(directory))
    return None if latest is None else [np.asarray(one).tolist() for one in side.restore(latest)]


STEPS = st.integers(0, 12)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "max_to_keep": st.sampled_from([None, 0, 1, 2, 3]),
        "keep_checkpoint_every_n_hours": st.sampled_from([0.5, 0.7, 2.0]),
        "save_relative_paths": st.just(True),
        "pad_step_number": st.just(True),
        "sharded": st.just(True),
    },
)
FEW_AND_HOURS = st.fixed_dictionaries(
    {"max_to_keep": st.sampled_from([1, 2]), "keep_checkpoint_every_n_hours": st.sampled_from([0.5, 0.7])}
)
LATEST = st.sampled_from([None, "checkpoint", "best"])
SAVE_OPTIONS = st.fixed_dictionaries({}, optional={"latest_filename": LATEST, "write_state": st.booleans()})
OPERATIONS = st.one_of(
    st.tuples(st.just("save"), STEPS, st.integers(0, 99), SAVE_OPTIONS),
    st.tuples(st.just("save"), STEPS, st.integers(0, 99), st.just({})),
    st.tuples(st.just("restart"), st.one_of(OPTIONS, FEW_AND_HOURS), LATEST),
    st.tuples(st.just("remove"), STEPS),
    st.tuples(st.just("delete"), STEPS),
    st.tuples(st.just("clock"), st.sampled_from([60.25, 1800.0, 2520.0, 7200.5, -3600.0])),
)


def compare(clock, both, where, operations, first_options):
    homes = [where / "theirs" / "run", where / "ours" / "run"]
    for home in homes:
        home.mkdir(parents=True)
    for operation in [("build", first_options), *operations]:
        clock.advance(600)
        if operation[0] == "clock":
            clock.jump(operation[1])
            continue
        theirs, ours = (apply(side, operation, home, clock.wall_s()) for side, home in zip(both, homes, strict=True))
        assert ours == theirs, operation
        expected, found = map(content, homes)
        # With absolute paths the two state files name two directories.
        expected = {name: data.replace(bytes(homes[0]), bytes(homes[1])) for name, data in expected.items()}
        assert found == expected, operation


def check_sequences(tmp_path_factory, num_sequences, num_operations, kind=Ours):
    @settings(
        max_examples=num_sequences,
        deadline=None,
        database=None,
        derandomize=num_sequences <= 200,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(OPERATIONS, min_size=num_operations, max_size=num_operations), st.one_of(OPTIONS, FEW_AND_HOURS))
    def check(operations, options):
        with both_sides(kind) as (clock, *both):
            compare(clock, both, tmp_path_factory.mktemp("sequence"), operations, options)

    check()


def test_two_hundred_random_sequences_leave_the_same_files(tmp_path_factory):
    check_sequences(tmp_path_factory, 200, 10)


def test_fifteen_random_sequences_over_a_graph_leave_the_same_files(tmp_path_factory):
    check_sequences(tmp_path_factory, 15, 10, OursOverAGraph)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_two_thousand_random_sequences_leave_the_same_files(tmp_path_factory):
    check_sequences(tmp_path_factory, 2000, 10)


def test_each_restores_what_the_other_saved(sides, tmp_path):
    _, theirs, ours = sides
    for side in (theirs, ours):
        side.build()
    assert [one.tolist() for one in ours.restore(theirs.save(str(tmp_path / "a"), 1, 5))] == [[5] * 3, 5]
    assert [one.tolist() for one in theirs.restore(ours.save(str(tmp_path / "b"), 1, 6))] == [[6] * 3, 6]


def test_tensorflows_definition_is_taken_over(sides):
    _, theirs, ours = sides
    theirs.build(max_to_keep=3, keep_checkpoint_every_n_hours=0.7, sharded=True)
    definition = theirs.saver.as_saver_def()
    again = ckptd.Saver.from_proto(definition, var_list={"v": ours.v})
    assert again.as_saver_def().SerializeToString() == definition.SerializeToString()


def test_variables_of_tensorflow_2_are_read_and_assigned(tmp_path):
    w = tf.Variable([1.0, 2.0], name="w")
    saver = ckptd.Saver([w])
    prefix = saver.save(tmp_path / "m", tf.constant(3))
    w.assign([0.0, 0.0])
    saver.restore(prefix)
    assert w.numpy().tolist() == [1, 2]


def test_slices_are_read_by_the_keys_that_tensorflow_gives_them(tmp_path):
    part = ckptd.Slice(np.ones((2, 3), np.float32), (4, 3), (0, 0))
    rest = ckptd.Slice(np.zeros((2, 3), np.float32), (4, 3), (2, 0))
    prefix = ckptd.save_checkpoint(tmp_path / "m", {"w": [part, rest]}).prefix
    ours, theirs = ckptd.load_checkpoint(prefix), tf.train.load_checkpoint(prefix)
    for line in ours.debug_string().split(b" (DT_FLOAT) [2,3]\n")[:2]:
        assert ours.get_tensor(line).tolist() == theirs.get_tensor(line).tolist()
