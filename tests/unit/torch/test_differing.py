"""Values that several real processes save under one name and that are not the same: told, or refused, never silent."""

from __future__ import annotations

import random

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import ckptd  # noqa: E402
from ckptd.torch import load, save  # noqa: E402
from tests import seams  # noqa: E402
from tests.unit.client.served import Daemon  # noqa: E402
from tests.unit.torch import differing_jobs as jobs  # noqa: E402
from tests.unit.torch.gloo import Ranks  # noqa: E402


@pytest.fixture(scope="module")
def ranks():
    with Ranks(3) as ranks:
        yield ranks


@pytest.fixture(scope="module", params=["streams", "shared memory"])
def daemon(request, tmp_path_factory):
    arena_bytes = 64 << 20 if request.param == "shared memory" else 0
    daemon = Daemon(tmp_path_factory.mktemp("root") / "root", arena_bytes=arena_bytes)
    yield daemon
    daemon.stop()


VALUES = [
    ("int", 3, 4, "'x' is 3 on rank 0, 4 on rank 1"),
    ("float", 0.5, 0.25, "'x' is 0.5 on rank 0, 0.25 on rank 1"),
    ("bool", True, False, "'x' is True on rank 0, False on rank 1"),
    ("str", "cuda:0", "cuda:1", "'x' is not the same on rank 0 as on rank 1"),
    ("bytes", b"a\0", b"b\0", "'x' is not the same on rank 0 as on rank 1"),
    ("numpy", np.arange(3), np.arange(3) + 1, "'x' is not the same on rank 0 as on rank 1"),
    ("scalar tensor", torch.tensor(1.5), torch.tensor(2.5), "'x' is 1.5 on rank 0, 2.5 on rank 1"),
    ("bfloat16", torch.tensor(1.5).bfloat16(), torch.tensor(2.5).bfloat16(), "'x' is 1.5 on rank 0, 2.5 on rank 1"),
    ("statistics", torch.zeros(16384), torch.ones(16384), "'x' is not the same on rank 0 as on rank 1"),
    ("transposed", torch.zeros(3, 4).T, torch.ones(3, 4).T, "'x' is not the same on rank 0 as on rank 1"),
    ("device", torch.device("cuda:0"), torch.device("cuda:1"), "'x' is not the same on rank 0 as on rank 1"),
]


def same(one, other):
    return bool((one == other).all()) if isinstance(one, (np.ndarray, torch.Tensor)) else one == other


@pytest.mark.parametrize(("kind", "one", "other", "said"), VALUES, ids=[each[0] for each in VALUES])
def test_a_value_that_differs_is_told_once_and_the_lowest_ranks_is_stored(ranks, daemon, kind, one, other, said):
    run = f"runs/{kind.replace(' ', '-')}"
    # Rank 0 has most to send: which of the two has less must not count.
    states = [{"x": one, "w0": torch.ones(1000)}, {"x": other, "w1": torch.ones(1)}]
    first, second = ranks.each(2, jobs.save_states, daemon.address, run, states, None, 2)
    assert len(first) == 1, first
    assert f"{run}: ranks have other values under one name" in first[0]
    assert said in first[0]
    assert second == []
    for step in (1, 2):
        assert same(load(daemon.root / f"{run}/model.ckpt-{step}")["x"], one)


@pytest.mark.parametrize(("kind", "one", "other", "said"), VALUES[:4], ids=[each[0] for each in VALUES[:4]])
def test_a_save_is_refused_where_that_is_wanted(ranks, daemon, kind, one, other, said):
    run = f"runs/refused-{kind}"
    states = [{"x": one}, {"x": other}]
    for lines in ranks.each(2, jobs.save_states, daemon.address, run, states, {"replicas": "refuse"}):
        assert len(lines) == 1
        assert lines[0].startswith("InvalidRequestError: ranks have other values under one name")
        assert said in lines[0]
        assert "give each rank a name of its own" in lines[0]
    assert not list(daemon.root.glob(f"{run}/model.ckpt*"))


def test_what_is_the_same_is_told_nothing_of(ranks, daemon):
    state = {"n": 1, "nan": float("nan"), "s": "text", "w": torch.ones(3), "list": [1, 2], "none": None}
    options = {"replicas": "refuse"}
    assert ranks.each(3, jobs.save_states, daemon.address, "runs/same", [state] * 3, options) == [[], [], []]
    own = [{"n": 1, f"rng_{rank}": rank} for rank in range(3)]
    assert ranks.each(3, jobs.save_states, daemon.address, "runs/own", own, options) == [[], [], []]


def test_what_may_differ_is_not_compared(ranks, daemon):
    states = [{"loss": 0.5, "n": 1}, {"loss": 0.25, "n": 1}]
    options = {"replicas": "refuse"}
    saved = ranks.each(2, jobs.save_states, daemon.address, "runs/may", states, options, 1, ["loss"])
    assert saved == [[], []]
    assert ranks.each(2, jobs.save_states, daemon.address, "runs/first", states, {"replicas": "first"}) == [[], []]
    assert load(daemon.root / "runs/first/model.ckpt-1")["loss"] in (0.5, 0.25)


def test_parts_that_several_ranks_hold_are_compared_as_well(ranks, daemon):
    def part(value, start):
        return ckptd.Slice(np.full(2, value, np.float32), (4,), (start,))

    arrays = [{"w": part(1, 0)}, {"w": part(2, 2)}, {"w": part(3, 2)}]
    first, *others = ranks.each(3, jobs.save_arrays, daemon.address, "runs/parts", arrays)
    assert "'w' is [2.0, 2.0] on rank 1, [3.0, 3.0] on rank 2" in first[0]
    assert others == [[], []]
    assert ckptd.load_variable(daemon.root / "runs/parts/model.ckpt-1", "w").tolist() == [1, 1, 2, 2]


def test_many_that_differ_are_told_in_one_line(ranks, daemon):
    arrays = [{f"a{number:03}": np.array([number + rank]) for number in range(200)} for rank in range(3)]
    ((line,), *_) = ranks.each(3, jobs.save_arrays, daemon.address, "runs/many", arrays)
    assert "'a000' is 0 on rank 0, 1 on rank 1, 2 on rank 2" in line.replace("[", "").replace("]", "")
    assert line.count(" is ") == 6
    assert "and 95 more" in line


CONTRADICTIONS = [
    ("in-line", [1, 2], [1, 3], "'x' is [1, 2] on rank 0, [1, 3] on rank 1"),
    ("length", [torch.ones(2)], [torch.ones(2)] * 2, "'x' is a list of 1 on rank 0, a list of 2 on rank 1"),
    ("sequence", [1, 2], (1, 2), "'x' is [1, 2] on rank 0, (1, 2) on rank 1"),
    ("nesting", torch.ones(2), {"y": torch.zeros(2)}, "'x' is a dict on rank 1, a tensor on another"),
    ("rng", random.Random(1).getstate(), random.Random(2).getstate(), "'x/1' is (2147483648, "),
    ("long number", 1 << 70, 1 << 71, "'x' is 1180591620717411303424 on rank 0, 2361183241434822606848 on rank 1"),
    ("set", {1}, {2}, "'x' is [1] on rank 0, [2] on rank 1"),
]


@pytest.mark.parametrize(("kind", "one", "other", "said"), CONTRADICTIONS, ids=[each[0] for each in CONTRADICTIONS])
def test_ranks_that_contradict_each_other_are_told_when_they_save(ranks, daemon, kind, one, other, said):
    run = f"runs/contradicting-{kind.replace(' ', '-')}"
    states = [{"x": one, "n": 1, "same": [1, (2, None)]}, {"x": other, "n": 1, "same": [1, (2, None)]}]
    first, second = ranks.each(2, jobs.save_states, daemon.address, run, states)
    assert len(first) == 1, first
    assert "a load of all of it will be refused" in first[0]
    assert said in first[0]
    assert second == []
    with pytest.raises(ckptd.InvalidRequestError):
        load(daemon.root / f"{run}/model.ckpt-1")
    options = {"replicas": "refuse"}
    for lines in ranks.each(2, jobs.save_states, daemon.address, f"{run}-refused", states, options):
        assert len(lines) == 1
        assert said in lines[0]
    assert not list(daemon.root.glob(f"{run}-refused/model.ckpt*"))


def test_none_and_keys_of_ones_own_contradict_nothing(ranks, daemon):
    states = [{"x": [1], "y": None, "z": {"a": [1]}}, {"x": [1], "y": [2], "z": {"b": (3, 4)}}]
    options = {"replicas": "refuse"}
    assert ranks.each(2, jobs.save_states, daemon.address, "runs/agreeing", states, options) == [[], []]
    assert load(daemon.root / "runs/agreeing/model.ckpt-1") == {"x": [1], "y": [2], "z": {"a": [1], "b": (3, 4)}}


def test_state_that_one_rank_cannot_store_is_told_to_the_others(daemon, monkeypatch):
    seams.WITHDRAWAL_GRACE_S.put(monkeypatch, 0.2)
    pair = [ckptd.Checkpointer(daemon.address, "runs/bad", rank=rank, world_size=2, timeout_s=60) for rank in (0, 1)]
    try:
        for step in (1, 2):
            other = save({"w": torch.ones(2)}, pair[1], step)
            with pytest.raises(ckptd.InvalidRequestError, match="bad"):
                save({"w": torch.ones(2), "bad": object()}, pair[0], step)
            with pytest.raises(ckptd.SessionAbortedError, match="rank 0 gave up: .*bad"):
                other.result(60)
            for pending in [save({"w": torch.ones(2)}, one, step) for one in pair]:
                assert pending.result(60).step == step
    finally:
        for one in pair:
            one.close()
