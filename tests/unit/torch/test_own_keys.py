"""State of several real processes that is not the same on every rank: keys of their own, and what contradicts."""

from __future__ import annotations

from collections import Counter

import pytest

torch = pytest.importorskip("torch")

import ckptd  # noqa: E402
from ckptd.torch import load  # noqa: E402
from ckptd.trees.outline import OUTLINE_NAME  # noqa: E402
from tests.unit.client.served import Daemon  # noqa: E402
from tests.unit.torch import rank_jobs as jobs  # noqa: E402
from tests.unit.torch.gloo import Ranks  # noqa: E402


@pytest.fixture(scope="module")
def ranks():
    with Ranks(3) as ranks:
        yield ranks


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    daemon = Daemon(tmp_path_factory.mktemp("root"))
    yield daemon
    daemon.stop()


def own(rank):
    return {"loader": {f"dp_rank_{rank}": {"at": bytes([1, rank, 0]), "seen": Counter(a=rank)}, "world": 2}, "epoch": 4}


def empty(rank):
    return {"loader": {f"dp_rank_{rank}": {"at": b"", "seen": Counter()}, "world": 0}, "epoch": 0}


@pytest.fixture(scope="module")
def prefix(ranks, daemon):
    """What two ranks saved, each a key of its own, as TorchTitan's data loader does."""
    assert ranks.each(2, jobs.save_own, daemon.address, "runs/own", [own(0), own(1)]) == ["", ""]
    return daemon.root / "runs/own/model.ckpt-1"


UNION = {"loader": own(0)["loader"] | own(1)["loader"], "epoch": 4}


def test_one_process_loads_what_any_rank_saved(prefix):
    assert load(prefix) == UNION
    assert isinstance(load(prefix)["loader"]["dp_rank_1"]["seen"], Counter)


def test_each_rank_finds_its_own_keys(ranks, daemon, prefix):
    found = ranks.each(2, jobs.load_into_own, daemon.address, "runs/own", [{**empty(0)}, {**empty(1)}])
    assert found == [own(0), own(1)]


def test_more_ranks_than_saved_find_what_there_is(ranks, daemon, prefix):
    states = [empty(0), empty(1), {"loader": {}, "epoch": 0}]
    assert ranks.each(3, jobs.load_into_own, daemon.address, "runs/own", states) == [own(0), own(1), UNION]


def test_who_knows_one_outline_only_reads_that_of_rank_0(prefix):
    first = ckptd.load_variable(prefix, OUTLINE_NAME)
    assert b"dp_rank_0" in first
    assert b"dp_rank_1" not in first


def test_equal_outlines_of_other_ranks_are_stored_once(ranks, daemon):
    state = {"w": torch.ones(2), "epoch": 1}
    assert ranks.each(3, jobs.save_own, daemon.address, "runs/equal", [state] * 3) == [""] * 3
    reader = ckptd.load_checkpoint(daemon.root / "runs/equal/model.ckpt-1")
    assert len([name for name in reader if name.startswith(OUTLINE_NAME)]) == 2
    assert load(reader.prefix)["epoch"] == 1


def test_none_gives_way_to_what_another_rank_has(ranks, daemon):
    states = [{"w": None, "epoch": 1}, {"w": torch.ones(2), "epoch": 1}]
    assert ranks.each(2, jobs.save_own, daemon.address, "runs/none", states) == ["", ""]
    assert torch.equal(load(daemon.root / "runs/none/model.ckpt-1")["w"], torch.ones(2))


@pytest.mark.parametrize(
    ("what", "one", "other", "said"),
    [
        ("nesting", torch.ones(2), {"y": torch.zeros(2)}, "x is a tensor on one rank, a dict on another"),
        ("length", [torch.ones(2)], [torch.ones(2)] * 2, "x is a list of 1 on one rank, a list of 2 on another"),
        ("in-line", [1, 2], [1, 3], "x/1 is 2 on one rank, 3 on another"),
        ("sequence", [1, 2], (1, 2), "x is a list of 2 on one rank, a tuple of 2 on another"),
    ],
)
def test_what_can_not_both_be_loaded_is_named_and_the_rest_is_loaded(ranks, daemon, what, one, other, said):
    states = [{"x": one, "epoch": 1}, {"x": other, "epoch": 1}]
    assert ranks.each(2, jobs.save_own, daemon.address, f"runs/{what}", states) == ["", ""]
    prefix = daemon.root / f"runs/{what}/model.ckpt-1"
    with pytest.raises(ckptd.InvalidRequestError, match=said):
        load(prefix)
    with pytest.raises(ckptd.InvalidRequestError, match=said):
        load(prefix, into={"x": None})
    assert load(prefix, into={"epoch": 0}) == {"epoch": 1}
    first = load(prefix, strict=False).state["x"]
    assert type(first) is type(one)


def test_a_key_of_two_dtypes_is_refused_before_anything_is_stored(ranks, daemon):
    for said in ranks.each(2, jobs.save_own, daemon.address, "runs/dtype", [{"x": 1}, {"x": 1.5}]):
        assert "ranks 0 and 1 disagree about the dtype of tensor 'x'" in said
    assert not list(daemon.root.glob("runs/dtype/*.index"))
