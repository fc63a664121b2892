"""Following a directory: TensorFlow's iterator and ours yield the same checkpoints at the same times."""

from __future__ import annotations

import os
from types import SimpleNamespace
from unittest import mock

import pytest

import ckptd

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
from tensorflow.python.training import checkpoint_utils

TIMELINE = [(3.0, "m-1"), (4.0, "m-2"), (9.5, "m-3"), (30.0, "m-1")]
OPTIONS = [
    {"timeout": 6},
    {"timeout": 0},
    {"timeout": 3},
    {"timeout": 3.5, "min_interval_secs": 5},
    {"timeout": 25, "min_interval_secs": 0.25},
    {"timeout": 2, "timeout_fn": 3},
    {"timeout": 5, "timeout_fn": 8, "min_interval_secs": 4},
    {"timeout_fn": 4},
]


class Directory:
    """A directory in which checkpoints are published as time goes by, and time goes by as one sleeps."""

    def __init__(self, path):
        self.path = path
        self.now = 1000.0
        self.began = self.now
        self.asked = []
        path.mkdir()
        for name in {name for _, name in TIMELINE}:
            ckptd.save_checkpoint(path / name, {"a": 1})

    def time(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        published = [name for at, name in TIMELINE if at <= self.now - self.began]
        if published:
            ckptd.update_checkpoint_state(self.path, self.path / published[-1])

    def ask(self, times):
        """Return a `timeout_fn` that ends it the given time it is asked."""

        def timeout_fn():
            self.asked.append(self.now - self.began)
            return len(self.asked) >= times

        return timeout_fn

    def seen(self, iterator):
        return [(self.now - self.began, os.path.basename(prefix)) for prefix in iterator], self.asked


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_both_iterators_yield_the_same_at_the_same_times(tmp_path, options):
    def arguments(directory):
        given = dict(options)
        if "timeout_fn" in given:
            given["timeout_fn"] = directory.ask(given["timeout_fn"])
        return str(directory.path), given

    theirs = Directory(tmp_path / "theirs")
    fake = SimpleNamespace(time=theirs.time, sleep=theirs.sleep)
    with mock.patch.object(checkpoint_utils, "time", fake):
        path, given = arguments(theirs)
        expected = theirs.seen(tf.train.checkpoints_iterator(path, **given))
    ours = Directory(tmp_path / "ours")
    path, given = arguments(ours)
    assert ours.seen(ckptd.checkpoints_iterator(path, **given, sleep=ours.sleep, now=ours.time)) == expected
    assert expected[0] or options["timeout"] < 3
