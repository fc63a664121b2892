"""The same operations, done by real TensorFlow and by a run of ours in two directories, compared file by file.

Left out of the sequences is where we differ on purpose: a manager goes on listing what somebody deleted, and so does a
Saver if the index is left; and a Saver without limit lists one twice that is saved again. See ``docs/retention.md``.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptd.engine.catalog.retention import Rule
from tests.conformance.retention_replay import Replay, as_one_shard, files_in

NAME = "m"
T0 = 1_600_000_000.25

starts = st.tuples(
    st.just("start"),
    st.sampled_from([Rule.SAVER, Rule.SAVER, Rule.MANAGER]),
    st.sampled_from([None, 1, 2, 3, 5]),
    st.sampled_from([0.7, 1.0, 10000.0]),
    st.booleans(),
)
operations = st.one_of(
    st.tuples(st.just("save"), st.just(0)),
    st.tuples(st.just("save"), st.just(0)),
    st.tuples(st.just("save"), st.integers(1, 4)),  # again, one that was saved so many saves ago
    starts,
    st.tuples(st.just("delete"), st.integers(1, 5), st.sampled_from([".index", ".*"])),
    st.tuples(st.just("jump"), st.sampled_from([-100_000.0, -10.0, 0.75, 1200.0, 3600.0, 50_000.0])),
)


class TensorFlow:
    """One directory of TensorFlow's, with its clock stopped."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self.now = T0
        self.graph = tf.Graph()
        with self.graph.as_default():
            self.variable = tf.compat.v1.get_variable("v", initializer=[1.0, 2.0])
            self.session = tf.compat.v1.Session()
            self.session.run(tf.compat.v1.global_variables_initializer())
        self.checkpoint = tf.train.Checkpoint(v=tf.Variable([1.0, 2.0]))
        self.saver: Any = None
        self.manager: Any = None

    @contextmanager
    def clock(self) -> Any:
        with mock.patch("time.time", return_value=self.now):
            yield

    def start(self, rule: Rule, max_to_keep: int | None, hours: float | None) -> None:
        self.saver = self.manager = None
        with self.clock():
            if rule is Rule.MANAGER:
                self.manager = tf.train.CheckpointManager(
                    self.checkpoint,
                    str(self.directory),
                    max_to_keep=max_to_keep,
                    keep_checkpoint_every_n_hours=hours,
                    checkpoint_name=NAME,
                )
                return
            with self.graph.as_default():
                self.saver = tf.compat.v1.train.Saver(
                    max_to_keep=max_to_keep, keep_checkpoint_every_n_hours=hours, save_relative_paths=True
                )
            state = tf.train.get_checkpoint_state(str(self.directory))
            if state is not None:
                self.saver.recover_last_checkpoints(state.all_model_checkpoint_paths)

    def save(self, step: int) -> None:
        with self.clock():
            if self.manager is not None:
                prefix = self.manager.save(checkpoint_number=step)
            else:
                with self.graph.as_default():
                    path = str(self.directory / NAME)
                    prefix = self.saver.save(self.session, path, global_step=step, write_meta_graph=False)
        os.utime(prefix + ".index", (self.now, self.now))

    def state(self) -> str | None:
        path = self.directory / "checkpoint"
        return path.read_text() if path.exists() else None


def play(root: Path, first: Any, rest: list[Any]) -> None:
    theirs, ours = TensorFlow(root / "theirs"), Replay(root / "ours", T0)
    max_to_keep: int | None = None
    steps: list[int] = []
    for number, operation in enumerate([first, *rest]):
        match operation:
            case ("start", rule, max_to_keep, hours, has_hours):
                if rule is Rule.MANAGER and not has_hours:
                    hours = None
                theirs.start(rule, max_to_keep, hours)
                ours.start(rule, max_to_keep, hours)
            case ("save", ago):
                theirs.now += 1500.5
                ours.clock.advance(1500.5)
                is_again = 0 < ago <= len(steps) and max_to_keep is not None
                step = steps[-ago] if is_again else number
                steps = [*(each for each in steps if each != step), step]
                theirs.save(step)
                ours.save(NAME, step)
            case ("delete", ago, what):
                if ago > len(steps) or "timestamps" in (theirs.state() or ""):
                    continue
                for directory in (theirs.directory, ours.directory):
                    for path in directory.glob(f"{NAME}-{steps[-ago]}{what}"):
                        path.unlink()
            case ("jump", seconds):
                theirs.now += seconds
                ours.clock.jump(seconds)
        assert ours.state() == theirs.state(), (number, operation)
        if theirs.directory.exists() and ours.directory.exists():
            assert files_in(ours.directory) == as_one_shard(os.listdir(theirs.directory)), (number, operation)


def compare(num_sequences: int) -> None:
    # Each rule in half of the sequences, with an interval that they reach: else few would keep one for good.
    for rule in Rule:
        compare_from(rule, num_sequences // 2)


def compare_from(rule: Rule, num_sequences: int) -> None:
    firsts = st.tuples(
        st.just("start"), st.just(rule), st.sampled_from([1, 2, None, 3]), st.sampled_from([0.7, 1.0]), st.just(True)
    )

    @settings(
        max_examples=num_sequences,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(firsts, st.lists(operations, min_size=9, max_size=9))
    def sequences(first: Any, rest: list[Any]) -> None:
        with tempfile.TemporaryDirectory() as root:
            play(Path(root), first, rest)

    sequences()


def test_two_hundred_random_sequences_leave_the_same_files_and_the_same_text() -> None:
    compare(200)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_two_thousand_random_sequences_leave_the_same_files_and_the_same_text() -> None:
    compare(2000)
