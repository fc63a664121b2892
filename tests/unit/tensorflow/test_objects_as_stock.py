"""Objects of every kind that TensorFlow tracks, saved by either manager: the same tensors, the same values back."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf

import ckptd.tensorflow
from tests.unit.tensorflow.beside import OURS, STOCK


class Text(tf.train.experimental.PythonState):
    """State of Python, which says itself how it is stored."""

    def __init__(self, text):
        self.text = text

    def serialize(self):
        return self.text

    def deserialize(self, string_value):
        self.text = string_value


class Containers(tf.Module):
    def __init__(self, value):
        super().__init__()
        self.a_list = [tf.Variable(value), {"k": tf.Variable([value])}]
        self.a_dict = {"a": tf.Variable(value), "b/c": tf.Variable(value + 1)}
        self.a_tuple = (tf.Variable(value + 2),)
        setattr(self, "odd/name", tf.Variable(value + 3))

    def values(self):
        return [variable.numpy().tolist() for variable in self.variables]


def table(of, **options):
    def make(value):
        made = of(tf.int64, tf.float32, -1.0, **options)
        made.insert(tf.constant([1, 2], tf.int64), tf.constant([value, value + 1]))
        return made

    return make


def looked_up(made):
    return made.lookup(tf.constant([1, 2, 9], tf.int64)).numpy().tolist()


def numbers(value):
    iterator = iter(tf.data.Dataset.range(10).shuffle(4, seed=1).batch(2).prefetch(1))
    for _ in range(int(value)):
        next(iterator)
    return iterator


def later(iterator):
    return [each.numpy().tolist() for each in iterator]


lookup = tf.lookup.experimental
OBJECTS = {
    "Python state": (lambda value: Text(str(value).encode()), lambda made: made.text),
    "a table": (table(lookup.MutableHashTable), looked_up),
    "a dense table": (table(lookup.DenseHashTable, empty_key=-1, deleted_key=-2), looked_up),
    "a generator": (lambda value: tf.random.Generator.from_seed(int(value)), lambda made: made.state.numpy().tolist()),
    "containers": (Containers, Containers.values),
    "any shape": (
        lambda value: tf.Variable([value, value], shape=tf.TensorShape(None)),
        lambda made: made.numpy().tolist(),
    ),
    "an iterator": (numbers, later),
}


@pytest.mark.parametrize(("make", "values"), OBJECTS.values(), ids=OBJECTS.keys())
def test_objects_come_back_as_with_stock(tmp_path, make, values):
    stored = []
    for name, side in (("stock", STOCK), ("ours", OURS)):
        saved, other = make(1.0), make(3.0)
        path = side.Manager(tf.train.Checkpoint(made=saved), str(tmp_path / name), max_to_keep=1).save()
        # Each reads what it has written itself; that either reads the other's is tested beside the manager.
        if side is OURS:
            ckptd.tensorflow.restore(tf.train.Checkpoint(made=other), path)
        else:
            tf.train.Checkpoint(made=other).restore(path)
        assert values(other) == values(saved)
        stored.append(tf.train.list_variables(path))
    assert stored[1] == stored[0]


@pytest.mark.parametrize("asks", ["assert_consumed", "assert_existing_objects_matched", "assert_nontrivial_match"])
def test_the_status_tells_what_was_not_there(tmp_path, asks):
    told = []
    for name, side in (("stock", STOCK), ("ours", OURS)):
        saved = tf.train.Checkpoint(a=tf.Variable(1.0), b=tf.Variable(2.0))
        path = side.Manager(saved, str(tmp_path / name), max_to_keep=1).save()
        other = tf.train.Checkpoint(a=tf.Variable(0.0), c=tf.Variable(9.0))
        status = other.restore(path) if side is STOCK else ckptd.tensorflow.restore(other, path)
        try:
            getattr(status, asks)()
            told.append("matched")
        except AssertionError:
            told.append("not matched")
        assert (float(other.a), float(other.c)) == (1.0, 9.0)
    assert told[0] == told[1]
