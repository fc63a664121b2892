"""A tensor that TensorFlow does not join, with parts on three hosts: one stores it whole, and agents pass parts on.

Real processes. TensorFlow reads what was saved.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest

import ckptd
from tests.e2e.saving_worker import value_of
from tests.e2e.test_agents import COUNT, WAIT_S, Hosts
from tests.fakes.waiting import eventually

LARGE = 1_500_000  # numbers a rank, of two bytes: more than a chunk


@pytest.fixture(scope="module")
def hosts():
    with tempfile.TemporaryDirectory(prefix="ckptd-") as base:
        root = Path(base) / "root"
        root.mkdir()
        # An agent may be paused for longer than any test takes.
        started = Hosts(Path(base), root, agent_lease_s=100.0)
        try:
            yield started
        finally:
            started.end()


def wanted(step: int, count: int) -> np.ndarray:
    return np.concatenate([(np.arange(count) % 1000 + value_of(step, rank)).astype(np.float16) for rank in range(6)])


def half_of(hosts: Hosts, step: int) -> np.ndarray:
    with ckptd.Checkpointer(str(hosts.root), "r") as checkpointer:
        return checkpointer.restore(step, ["half"])["half"]


def test_a_float16_tensor_of_three_hosts_is_whole_and_tensorflow_reads_it(hosts):
    tensorflow = pytest.importorskip("tensorflow")
    hosts.crew.save(1, LARGE, half="float16")
    assert hosts.crew.answers(WAIT_S) == ["saved"] * 6
    hosts.check(1, LARGE)
    reader = tensorflow.train.load_checkpoint(str(hosts.root / "r/model.ckpt-1"))
    assert np.array_equal(reader.get_tensor("half"), wanted(1, LARGE))
    assert len(list((hosts.root / "r").glob("model.ckpt-1.data*"))) == 3
    assert "% of its bytes cross hosts" in (hosts.base / "coordinator.log").read_text()


def test_an_agent_that_is_killed_with_parts_of_others_gets_them_again(hosts):
    # The tensor is the host's with least to write: b's, as a has the step besides.
    hosts.begin_without_c(2, "float16")
    # A host gives its receipt once b has what it passed on: these 10 kB, of which b has told nothing yet.
    eventually(lambda: "rank 0 of 6: 10.0 kB of 30.0 kB" in hosts.waiting_for(), hosts.waiting_for, within_s=WAIT_S)
    hosts.kill("b")
    hosts.start("b")
    hosts.go_on()
    assert hosts.crew.answers(WAIT_S) == ["saved"] * 6
    hosts.check(2)
    assert np.array_equal(half_of(hosts, 2), wanted(2, COUNT))
