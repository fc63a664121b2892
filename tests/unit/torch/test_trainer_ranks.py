"""Hugging Face's trainer with two processes (DDP over gloo), through one daemon: beside stock, stopped and resumed."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.starts import prepared  # noqa: E402
from tests.unit.client.served import Daemon  # noqa: E402
from tests.unit.torch import trainer_jobs as jobs  # noqa: E402
from tests.unit.torch.gloo import Ranks  # noqa: E402

LAST = 12
CHANGES = {"max_steps": LAST, "save_total_limit": 2}


@pytest.fixture(scope="module")
def ranks():
    with Ranks(2, (*prepared.TORCH, "ckptd.torch.transformers")) as ranks:
        yield ranks


@pytest.fixture
def daemon(tmp_path):
    daemon = Daemon(tmp_path / "root")
    yield daemon
    daemon.stop()


def test_a_training_that_was_stopped_ends_as_stock_on_every_rank(ranks, daemon, tmp_path):
    """Weights, the best ones at the end, what was logged, what is kept, and each rank's random numbers."""

    def train(name, *, is_stock, stops_at=None, resumes=False):
        (tmp_path / name).mkdir(exist_ok=True)
        job = jobs.Training(str(tmp_path / name), daemon.address, is_stock=is_stock, stops_at=stops_at, resumes=resumes)
        return ranks.each(2, job, CHANGES)

    stock = train("stock", is_stock=True)
    train("ours", is_stock=False, stops_at=5)
    ours = train("ours", is_stock=False, resumes=True)
    for expected, found in zip(stock, ours, strict=True):
        assert found.state == expected.state
        assert all(np.array_equal(found.weights[name], value) for name, value in expected.weights.items())
        assert found.drawn == expected.drawn[-len(found.drawn) :]
        assert found.steps == expected.steps
        assert found.pinned == [expected.state["best_global_step"]]
    assert len(ours[0].drawn) == LAST - 4
    # To resume, and for the best weights, one rank reads; the other one only what `resume` asks for.
    assert [one.num_opened for one in ours] == [3, 1]
    assert ours[0].drawn != ours[1].drawn
    assert stock[0].state["best_global_step"] != LAST


def test_ranks_that_found_different_steps_are_refused_on_each(ranks, daemon, tmp_path):
    job = jobs.Training(str(tmp_path), daemon.address, stops_at=3)
    ranks.each(2, job, {"max_steps": 2})
    said = ranks.each(2, jobs.ResumingApart(str(tmp_path), daemon.address), {"max_steps": 4})
    assert all("ranks resume from different steps: rank 0: 2, rank 1: None" in one for one in said)
    said = ranks.each(2, jobs.ResumingChanged(str(tmp_path), daemon.address), {"max_steps": 4})
    assert said[0] == said[1]
    assert "does not fit the model" in said[0]


def test_a_save_that_failed_for_one_rank_ends_the_training_on_each(ranks, daemon, tmp_path):
    """None waits for the other one."""
    said = ranks.each(2, jobs.FailingAtEnd(str(tmp_path), daemon.address), {"max_steps": 2})
    assert "no room for rank 1" in said[1]
    assert said[0] == f"rank 1: {said[1]}"
