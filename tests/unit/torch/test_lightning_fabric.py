"""Lightning's `Fabric` saves and loads through the plugin as with its own, whatever its program puts into the state."""

from __future__ import annotations

import warnings

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from lightning.fabric import Fabric
    from lightning.fabric.plugins import TorchCheckpointIO

from ckptd.torch import CkptdCheckpointIO  # noqa: E402
from tests.unit.client.served import Daemon  # noqa: E402
from tests.unit.torch.test_lightning_as_stock import assert_same  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

STEPS = [5, torch.tensor(5), "five", -1, None, 2.5, 2**70, True, [1, (2,)]]


@pytest.fixture(params=["direct", "daemon"])
def ours(request, tmp_path):
    if request.param == "direct":
        yield CkptdCheckpointIO()
        return
    daemon = Daemon(tmp_path / "root")
    yield CkptdCheckpointIO(daemon.address, run="runs/fabric")
    daemon.stop()


def trained(plugin):
    torch.manual_seed(1)
    fabric = Fabric(accelerator="cpu", devices=1, plugins=[plugin])
    model = torch.nn.Linear(2, 2)
    model, optimizer = fabric.setup(model, torch.optim.AdamW(model.parameters(), lr=0.1))
    train(fabric, model, optimizer)
    return fabric, model, optimizer


def train(fabric, model, optimizer):
    optimizer.zero_grad()
    fabric.backward(model(torch.ones(1, 2)).square().sum())
    optimizer.step()


def test_a_training_goes_on_as_with_lightnings_own_files(tmp_path, ours):
    seen = {}
    for name, plugin in (("ours", ours), ("stock", TorchCheckpointIO())):
        path = tmp_path / name / "a.ckpt"
        fabric, model, optimizer = trained(plugin)
        fabric.save(path, {"model": model, "optimizer": optimizer, "step": 1, "epoch": 7})
        whole = fabric.load(path)
        train(fabric, model, optimizer)
        fabric, again, optimizer = trained(plugin)
        train(fabric, again, optimizer)  # other weights than those that are loaded
        state = {"model": again, "optimizer": optimizer, "step": 0}
        with pytest.raises(KeyError, match="absent"):
            fabric.load(path, {**state, "absent": 1})
        remainder = fabric.load(path, {**state, "absent": 1}, strict=False)
        assert fabric.load(path, state) == remainder == {"epoch": 7}
        train(fabric, again, optimizer)
        assert torch.equal(again.weight, model.weight)
        seen[name] = [whole, state["step"], again.weight]
    assert_same(seen["ours"], seen["stock"], (tmp_path / "ours", tmp_path / "stock"))


def test_filters_weights_alone_and_what_is_not_there(tmp_path, ours):
    seen = {}
    for name, plugin in (("ours", ours), ("stock", TorchCheckpointIO())):
        fabric, model, optimizer = trained(plugin)
        directory = tmp_path / name
        state = {"model": model, "optimizer": optimizer}
        fabric.save(directory / "few.ckpt", state, filter={"model": lambda key, _: key == "bias"})
        fabric.save(f"{directory}/weights.ckpt", model.state_dict())
        few = fabric.load(directory / "few.ckpt")
        with torch.no_grad():
            model.weight.zero_()
        fabric.load_raw(directory / "weights.ckpt", model)
        with pytest.raises(FileNotFoundError, match="Checkpoint file not found"):
            fabric.load(directory / "nowhere.ckpt", state)
        seen[name] = [few, model.weight]
    assert_same(seen["ours"], seen["stock"], (tmp_path / "ours", tmp_path / "stock"))


def test_what_a_program_calls_its_step_is_kept_as_it_is(tmp_path, ours):
    seen = {}
    for name, plugin in (("ours", ours), ("stock", TorchCheckpointIO())):
        fabric = Fabric(accelerator="cpu", devices=1, plugins=[plugin])
        for step in STEPS:
            fabric.save(tmp_path / name / "a.ckpt", {"global_step": step, "w": torch.ones(1)})
            seen.setdefault(name, []).append(fabric.load(tmp_path / name / "a.ckpt"))
    assert_same(seen["ours"], seen["stock"], (tmp_path / "ours", tmp_path / "stock"))
