"""Ranks that open the latest checkpoint each for itself, while a newer one comes, load the same one."""

from __future__ import annotations

import pytest

import ckptd
from ckptd.errors import ConflictError, CorruptionError, NotFoundError

torch = pytest.importorskip("torch")

import torch.distributed.checkpoint as dcp  # noqa: E402
from torch.distributed.checkpoint import DefaultLoadPlanner  # noqa: E402

from ckptd.torch import CkptdStorageReader, CkptdStorageWriter  # noqa: E402
from ckptd.torch.dcp_values import NOTE, decode_notes  # noqa: E402
from tests.unit.client.conftest import daemon  # noqa: E402

__all__ = ["daemon"]

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is:UserWarning")


class Rank:
    """One rank of a load, whose steps the test takes."""

    def __init__(self, reader, state):
        self.reader, self.state, self.planner = reader, state, DefaultLoadPlanner()
        metadata = reader.read_metadata()
        self.planner.set_up_planner(state, metadata, True)
        reader.set_up_storage_reader(metadata, True)
        self.plan = reader.prepare_local_plan(self.planner.create_local_plan())


@pytest.fixture
def save(tmp_path):
    writer = CkptdStorageWriter(tmp_path, run="run")

    def save(step, state):
        dcp.save(state, checkpoint_id=step, storage_writer=writer)

    yield save
    writer.close()


@pytest.mark.parametrize("coordinator", [0, 1])
@pytest.mark.parametrize("where", ["directory", "run"])
def test_all_ranks_load_what_the_coordinator_has_opened(tmp_path, save, where, coordinator):
    ranks = []
    for step in (1, 2):
        save(step, {"w": torch.full((3,), float(step)), "n": step})
        reader = CkptdStorageReader(tmp_path, run="run") if where == "run" else CkptdStorageReader(tmp_path / "run")
        ranks.append(Rank(reader, {"w": torch.zeros(3), "n": 0}))
    plans = ranks[coordinator].reader.prepare_global_plan([rank.plan for rank in ranks])
    for rank, plan in zip(ranks, plans, strict=True):
        rank.reader.read_data(plan, rank.planner).wait()
        assert rank.state["w"].tolist() == [coordinator + 1] * 3
        assert rank.state["n"] == coordinator + 1


def test_ranks_whose_checkpoint_is_replaced_meanwhile_are_told(tmp_path, save):
    save(1, {"w": torch.ones(3)})
    early = Rank(CkptdStorageReader(tmp_path, run="run"), {"w": torch.zeros(3)})
    save(1, {"w": torch.zeros(3)})
    late = Rank(CkptdStorageReader(tmp_path, run="run"), {"w": torch.zeros(3)})
    plans = early.reader.prepare_global_plan([early.plan, late.plan])
    with pytest.raises(ConflictError, match="load again"):
        late.reader.read_data(plans[1], late.planner)


def test_a_checkpoint_is_named_by_its_step_its_name_or_as_the_latest(daemon, tmp_path):
    writer = CkptdStorageWriter(daemon.address, run="run")
    for step in (1, "best", "other-2", 3):
        dcp.save({"w": torch.ones(1)}, checkpoint_id=step, storage_writer=writer)
    reader = CkptdStorageReader(daemon.address, run="run")
    opened = []
    for checkpoint_id in (None, 1, "best", "run/other-2", "2"):
        reader.reset(checkpoint_id)
        reader.read_metadata()
        opened.append(reader.checkpoint_id.rpartition("/")[2])
    assert opened == ["model.ckpt-3", "model.ckpt-1", "best", "other-2", "other-2"]
    reader.reset("bets")
    with pytest.raises(NotFoundError, match="did you mean 'best'"):
        reader.read_metadata()
    writer.close()
    reader.close()


@pytest.mark.parametrize(
    "note", [b"one string", [b"{}", b"{}"], [b'{"version":1,"state":{"dict":[]}}', b"not json"]], ids=str
)
def test_a_damaged_note_is_corruption(tmp_path, note):
    ckptd.save_checkpoint(tmp_path / "bad-1", {f"{NOTE}0": note})
    with pytest.raises(CorruptionError):
        CkptdStorageReader(tmp_path / "bad-1").read_metadata()
    with pytest.raises(CorruptionError):
        decode_notes({f"{NOTE}0": note})
