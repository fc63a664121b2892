"""Model and optimizer of a training: sharded by FSDP2 and tensor parallelism, saved in the background, resumed."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import ckptd

torch = pytest.importorskip("torch")

import torch.distributed as dist  # noqa: E402
import torch.distributed.checkpoint as dcp  # noqa: E402
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.fsdp import fully_shard  # noqa: E402
from torch.distributed.tensor import DTensor  # noqa: E402
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module  # noqa: E402

from ckptd.storage.local.around_cache import address_of  # noqa: E402
from ckptd.torch import CkptdStorageReader, CkptdStorageWriter  # noqa: E402
from tests import seams  # noqa: E402
from tests.unit.torch.versions import has  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is:UserWarning")

ON_THE_HOST = pytest.mark.skipif(not has(2, 7), reason="this torch's FSDP2 trains on accelerators only")
BOUND_S = 60.0


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(6, 10)
        self.second = torch.nn.Linear(10, 4)

    def forward(self, values):
        return self.second(torch.relu(self.first(values)))


def plain():
    return Network()


def fsdp():
    return fully_shard(Network(), mesh=init_device_mesh("cpu", (dist.get_world_size(),)))


def hsdp():
    mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("replicate", "shard"))
    return fully_shard(Network(), mesh=mesh)


def fsdp_and_tensor_parallel():
    mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("data", "tensor"))
    network = parallelize_module(Network(), mesh["tensor"], {"first": ColwiseParallel(), "second": RowwiseParallel()})
    return fully_shard(network, mesh=mesh["data"])


class Training:
    """A network and its optimizer, as DCP's users wrap them."""

    def __init__(self, make):
        torch.manual_seed(0)
        self.network = make()
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=0.01)
        self.step = 0

    def train(self, steps):
        for _ in range(steps):
            generator = torch.Generator().manual_seed(self.step)
            self.network(torch.rand(8, 6, generator=generator)).pow(2).sum().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.step += 1
        return self

    def state_dict(self):
        model, optimizer = get_state_dict(self.network, self.optimizer)
        return {"model": model, "optimizer": optimizer, "step": self.step}

    def load_state_dict(self, state):
        set_state_dict(
            self.network, self.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
        )
        self.step = state["step"]

    def fingerprint(self):
        """All numbers of the state, whole, by name."""
        model, optimizer = get_state_dict(self.network, self.optimizer)
        found = {f"model.{name}": tensor for name, tensor in model.items()}
        for name, moments in optimizer["state"].items():
            found |= {f"optimizer.state.{name}.{kind}": tensor for kind, tensor in moments.items()}
        whole = {name: one.full_tensor() if isinstance(one, DTensor) else one for name, one in found.items()}
        return {name: one.detach().numpy().copy() for name, one in whole.items()}


def save_training(address, run, make):
    training = Training(make).train(2)
    dcp.save({"training": training}, storage_writer=CkptdStorageWriter(address, run=run, step=training.step))
    return training.fingerprint()


def resume_training(address, run, make):
    training = Training(make)
    dcp.load({"training": training}, storage_reader=CkptdStorageReader(address, run=run))
    assert training.step == 2
    fingerprint = training.fingerprint()
    training.train(1)
    return fingerprint


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert np.array_equal(one[name], other[name]), name


@ON_THE_HOST
@pytest.mark.parametrize("make", [fsdp, hsdp, fsdp_and_tensor_parallel])
def test_a_training_of_4_ranks_goes_on_with_2_ranks_and_with_1_bit_by_bit(daemon, pool, run, make):
    saved = pool.run(save_training, 4, daemon.address, run, make)[0]
    stored = ckptd.load_checkpoint(f"{daemon.root}/{run}/model.ckpt-2")
    assert_equal(saved, {name: np.asarray(stored[f"training.{name}"]) for name in saved})
    for world_size, other in ((4, hsdp), (3, fsdp), (2, fsdp), (1, plain)):
        for resumed in pool.run(resume_training, world_size, daemon.address, run, other):
            assert_equal(saved, resumed)


def save_in_the_background(address, run, make):
    """Save three times while training goes on; return what the state was at each of the steps."""
    training = Training(make)
    writer = CkptdStorageWriter(address, run=run)
    before = {}
    for _ in range(3):
        training.train(1)
        before[training.step] = training.fingerprint()
        future = dcp.async_save({"training": training}, checkpoint_id=training.step, storage_writer=writer)
        with torch.no_grad():
            for parameter in training.network.parameters():
                parameter.mul_(2)
        future.result(timeout=BOUND_S)
    return before


@ON_THE_HOST
@pytest.mark.parametrize("make", [fsdp, fsdp_and_tensor_parallel])
def test_async_save_stores_what_the_state_was_when_it_was_called(daemon, pool, run, make):
    before = pool.run(save_in_the_background, 4, daemon.address, run, make)[0]
    for step, expected in before.items():
        stored = ckptd.load_checkpoint(f"{daemon.root}/{run}/model.ckpt-{step}")
        assert_equal(expected, {name: np.asarray(stored[f"training.{name}"]) for name in expected})


def save_in_a_process(address, run):
    from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

    training = Training(fsdp)
    writer = CkptdStorageWriter(address, run=run)
    expected = {}
    for _ in range(2):
        training.train(1)
        expected[training.step] = training.fingerprint()
        dcp.async_save(
            {"training": training},
            checkpoint_id=str(training.step),
            storage_writer=writer,
            async_checkpointer_type=AsyncCheckpointerType.PROCESS,
        ).result(timeout=BOUND_S)
    _end_saving_process()
    return expected


def _end_saving_process():
    from torch.distributed.checkpoint import _async_process_executor as executor

    executor._CHECKPOINT_PROCESS.__del__()  # at the interpreter's end it would come too late
    executor._CHECKPOINT_PROCESS = None


@ON_THE_HOST  # that torch has no saving process, either
def test_async_save_works_with_a_process_of_its_own(daemon, pool, run):
    expected = pool.run(save_in_a_process, 2, daemon.address, run)[0]
    for step, numbers in expected.items():
        stored = ckptd.load_checkpoint(f"{daemon.root}/{run}/model.ckpt-{step}")
        assert_equal(numbers, {name: np.asarray(stored[f"training.{name}"]) for name in numbers})


def test_async_save_in_direct_mode_copies_the_state_once(tmp_path, monkeypatch):
    writer = CkptdStorageWriter(tmp_path, run="runs/one")
    state = {"w": torch.arange(50_000.0), "half": torch.arange(7).half(), "n": [1]}
    for step in (1, 2):
        writer.reset(step)
        staged = writer.stage(state)
        block = range(staged["w"].data_ptr(), staged["w"].data_ptr() + 300_000)
        assert staged["half"].data_ptr() in block  # one room for everything
        written = _placed_by(writer, step, staged, monkeypatch)
        assert written == {"w": staged["w"].data_ptr(), "half": staged["half"].data_ptr()}
    writer.close()
    assert np.array_equal(ckptd.load_checkpoint(tmp_path / "runs/one")["w"], np.arange(50_000, dtype=np.float32))


def _placed_by(writer, step, staged, monkeypatch):
    """Save; return where the bytes of each tensor were in the memory that the shards were written from."""
    places = {}
    capture = seams.CAPTURE.value

    def watched(self):
        begin = address_of(self.memory)
        places.update(zip(self.manifest.names, (begin + offset for offset in self.offsets), strict=True))
        return capture(self)

    with monkeypatch.context() as patch:
        seams.CAPTURE.put(patch, watched)
        dcp.save(staged, checkpoint_id=step, storage_writer=writer)
    return {name: places[name] for name in ("w", "half")}


def test_state_that_is_still_staged_is_not_overwritten_by_the_next(tmp_path):
    writer = CkptdStorageWriter(tmp_path, run="runs/two", step=1)
    first = writer.stage({"w": torch.ones(1000)})
    second = writer.stage({"w": torch.full((1000,), 2.0)})
    dcp.save(second, checkpoint_id=2, storage_writer=writer)
    dcp.save(first, checkpoint_id=1, storage_writer=writer)
    for step in (1, 2):
        assert (ckptd.load_checkpoint(tmp_path / f"runs/two/model.ckpt-{step}")["w"] == step).all()
    del first, second
    third = writer.stage({"w": torch.full((1000,), 3.0)})
    fourth = writer.stage({"w": third["w"]})
    assert third["w"].data_ptr() != fourth["w"].data_ptr()
    writer.close()


def test_checkpoints_of_several_names_are_saved_from_one_run_in_turns(tmp_path, caplog, monkeypatch):
    monkeypatch.delenv("CKPTD_ADDRESS", raising=False)
    caplog.set_level("INFO", "ckptd.torch")
    writer = CkptdStorageWriter()
    for name in ("run/step-100", "run/best", "run/step-200", "other/best", "run/best"):
        at = tmp_path / name
        dcp.async_save({"w": torch.ones(3)}, checkpoint_id=at, storage_writer=writer).result(BOUND_S)
        assert "w" in CkptdStorageReader(at).read_metadata().state_dict_metadata
        assert f"saved {at}" in caplog.messages[-1]
        assert "training stood still for" in caplog.messages[-1]
    writer.close()


def test_the_future_of_a_failed_async_save_tells_why_and_the_next_goes_well(tmp_path):
    writer = CkptdStorageWriter(tmp_path, run="runs/three")
    gone = threading.Event()
    future = dcp.async_save({"bad": object()}, checkpoint_id=1, storage_writer=writer)
    future.add_done_callback(lambda _: gone.set())
    assert gone.wait(BOUND_S)
    with pytest.raises(dcp.CheckpointException, match="can't be saved without pickle"):
        future.result()
    dcp.async_save({"good": torch.ones(2)}, checkpoint_id=2, storage_writer=writer).result(timeout=BOUND_S)
    assert ckptd.load_checkpoint(tmp_path / "runs/three").prefix.endswith("model.ckpt-2")
    writer.close()
