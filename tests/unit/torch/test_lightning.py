"""Real trainings with Lightning whose checkpoints are ckptd's."""

from __future__ import annotations

import threading
import warnings

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import ModelCheckpoint

import ckptd  # noqa: E402
from ckptd.torch import CkptdCheckpointIO, load  # noqa: E402
from tests import seams  # noqa: E402
from tests.unit.client.served import Daemon  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


class Fitting(pl.LightningModule):
    def __init__(self, width=3):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(4, width)
        self.dropout = torch.nn.Dropout(0.3)

    def training_step(self, batch, _):
        torch.manual_seed(self.global_step)  # dropout is the same whether or not training was resumed before
        loss = self.dropout(self.layer(batch[0])).square().mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.05)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


class ByCallback(ModelCheckpoint):
    """Lightning's own callback saves, by its own method: that goes on in the background."""

    def save(self, plugin, state, path):
        self._save_checkpoint(_TrainerOf(plugin, state), path)


class _TrainerOf:
    global_step = 0
    is_global_zero = False

    def __init__(self, plugin, state):
        self._plugin, self._state = plugin, state

    def save_checkpoint(self, path, _):
        self._plugin.save_checkpoint(self._state, path)


def fit(directory, plugin, epochs, ckpt_path=None, **saving):
    pl.seed_everything(1, verbose=False)
    rows = torch.utils.data.TensorDataset(torch.randn(12, 4))
    checkpoints = ModelCheckpoint(dirpath=directory, **{"filename": "{epoch}", **saving})
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[plugin],
        callbacks=[checkpoints],
    )
    model = Fitting()
    trainer.fit(model, torch.utils.data.DataLoader(rows, batch_size=4), ckpt_path=ckpt_path)
    return model, trainer, checkpoints


def test_a_fit_is_resumed_and_ends_as_if_it_had_never_stopped(tmp_path):
    whole, _, _ = fit(tmp_path / "whole", CkptdCheckpointIO(), 4)
    fit(tmp_path / "parts", CkptdCheckpointIO(), 2)
    path = tmp_path / "parts" / "epoch=1.ckpt"
    state = load(path)
    assert (state["global_step"], state["epoch"], state["hyper_parameters"]) == (6, 1, {"width": 3})
    assert ckptd.verify(path).ok
    resumed, trainer, _ = fit(tmp_path / "parts", CkptdCheckpointIO(), 4, ckpt_path=str(path))
    assert trainer.global_step == 12
    assert torch.equal(resumed.layer.weight, whole.layer.weight)


def test_only_what_lightning_keeps_is_there_in_the_end(tmp_path):
    fit(tmp_path, CkptdCheckpointIO(), 3, save_last=True)
    assert {path.name for path in tmp_path.iterdir() if path.suffix == ".ckpt"} == {"last.ckpt", "epoch=2.ckpt"}
    assert load(tmp_path / "last.ckpt")["global_step"] == 9


def test_a_module_is_loaded_from_the_checkpoint_by_the_plugin(tmp_path):
    model, trainer, _ = fit(tmp_path, CkptdCheckpointIO(), 1)
    trainer.save_checkpoint(tmp_path / "mine.ckpt")
    loaded = trainer.strategy.checkpoint_io.load_checkpoint(tmp_path / "mine.ckpt", map_location="cpu")
    other = Fitting(**loaded["hyper_parameters"])
    other.load_state_dict(loaded["state_dict"])
    assert torch.equal(other.layer.weight, model.layer.weight)


def test_through_a_daemon_a_path_is_a_run_of_it(tmp_path):
    daemon = Daemon(tmp_path / "root")
    try:
        plugin = CkptdCheckpointIO(daemon.address, run="runs/fit")
        fit(tmp_path / "unused", plugin, 2)
        assert load(tmp_path / "root/runs/fit/epoch=1.ckpt")["epoch"] == 1
        assert ckptd.latest_checkpoint(tmp_path / "root/runs/fit/epoch=0.ckpt") is None  # removed
        _, trainer, _ = fit(tmp_path / "unused", plugin, 3, ckpt_path="epoch=1.ckpt")
        assert trainer.global_step == 9
    finally:
        daemon.stop()


def test_nothing_is_removed_before_what_takes_its_place_is_durable(tmp_path, monkeypatch):
    plugin = CkptdCheckpointIO()
    plugin.save_checkpoint({"w": torch.ones(2), "global_step": 1}, tmp_path / "one.ckpt")
    plugin.teardown()
    go_on, create = threading.Event(), seams.CREATE_ON_DISK.value
    seams.CREATE_ON_DISK.put(monkeypatch, lambda *arguments: (go_on.wait(60), create(*arguments))[1])
    ByCallback().save(plugin, {"w": torch.ones(2), "global_step": 2}, tmp_path / "two.ckpt")
    plugin.remove_checkpoint(tmp_path / "one.ckpt")
    assert load(tmp_path / "one.ckpt")["global_step"] == 1
    go_on.set()
    plugin.teardown()
    assert not (tmp_path / "one.ckpt").exists()
    assert load(tmp_path / "two.ckpt")["global_step"] == 2


def test_every_path_is_captured_into_the_same_memory(tmp_path, monkeypatch):
    fresh = []
    make = seams.NEW_ROOM.value
    seams.NEW_ROOM.put(monkeypatch, lambda self, *arguments: (fresh.append(1), make(self, *arguments))[1])
    plugin = CkptdCheckpointIO()
    for step in range(1, 5):
        plugin.save_checkpoint({"w": torch.ones(100_000), "global_step": step}, tmp_path / f"{step}.ckpt")
        plugin.load_checkpoint(tmp_path / f"{step}.ckpt")
    plugin.teardown()
    assert len(fresh) == 1


def test_when_a_save_fails_it_is_told_and_the_one_before_is_kept(tmp_path, monkeypatch):
    plugin = CkptdCheckpointIO()
    plugin.save_checkpoint({"w": torch.ones(2), "global_step": 1}, tmp_path / "one.ckpt")
    plugin.teardown()

    def fail(*_):
        raise ckptd.StorageFullError("no room")

    seams.CREATE_ON_DISK.put(monkeypatch, fail)
    ByCallback().save(plugin, {"w": torch.ones(2), "global_step": 2}, tmp_path / "two.ckpt")
    with pytest.raises(ckptd.StorageFullError):  # whenever it turns out
        plugin.remove_checkpoint(tmp_path / "one.ckpt")
        plugin.teardown()
    assert load(tmp_path / "one.ckpt")["global_step"] == 1


def test_what_would_need_pickle_is_refused_by_its_name(tmp_path):
    plugin = CkptdCheckpointIO()
    with pytest.raises(ckptd.InvalidRequestError, match="hyper_parameters/activation"):
        plugin.save_checkpoint({"hyper_parameters": {"activation": torch.relu}}, tmp_path / "a.ckpt")
    with pytest.raises(ckptd.InvalidRequestError, match="storage options"):
        plugin.save_checkpoint({}, tmp_path / "a.ckpt", storage_options={})
