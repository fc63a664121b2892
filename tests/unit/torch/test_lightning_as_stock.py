"""Fits whose checkpoints are ckptd's beside the same fits with Lightning's own: all values, and what is kept."""

from __future__ import annotations

import datetime
import math
import warnings

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import (
        EarlyStopping,
        LearningRateMonitor,
        ModelCheckpoint,
        OnExceptionCheckpoint,
        StochasticWeightAveraging,
    )
    from lightning.pytorch.loggers import CSVLogger

from ckptd.torch import CkptdCheckpointIO  # noqa: E402
from tests.unit.client.served import Daemon  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    running = Daemon(tmp_path_factory.mktemp("daemon") / "root")
    yield running
    running.stop()


@pytest.fixture(params=["direct", "daemon"])
def plugin(request, tmp_path):
    if request.param == "direct":
        return CkptdCheckpointIO()
    return CkptdCheckpointIO(request.getfixturevalue("daemon").address, run=f"runs/{tmp_path.name}")


class Model(pl.LightningModule):
    def __init__(self, width=3, names=("a", "b"), options=None):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(4, width)
        self.norm = torch.nn.BatchNorm1d(width)

    def training_step(self, batch, _):
        loss = self.norm(self.layer(batch[0])).square().mean() + self.layer.weight.square().sum()
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, _):
        self.log("score", self.layer.weight.square().sum())

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.05)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        return [optimizer], [{"scheduler": plateau, "monitor": "score"}]


class Counting(pl.Callback):
    """Has state of the forms that users' callbacks have."""

    def __init__(self):
        self.seen = {"steps": 0, 3: [1.5, None, True], "when": (1, "two"), "big": 2**70}

    def state_dict(self):
        return self.seen

    def load_state_dict(self, state):
        self.seen = state

    def on_train_batch_end(self, *_):
        self.seen["steps"] += 1


class Data(pl.LightningDataModule):
    def __init__(self, rows=12):
        super().__init__()
        self.save_hyperparameters()
        self.served = 0

    def _loader(self):
        return torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(torch.arange(48.0).reshape(12, 4)[: self.hparams.rows]), batch_size=4
        )

    def train_dataloader(self):
        self.served += 1
        return self._loader()

    val_dataloader = _loader

    def state_dict(self):
        return {"served": self.served}

    def load_state_dict(self, state):
        self.served = state["served"]


def trainer(directory, plugins, epochs, callbacks, **options):
    pl.seed_everything(1, verbose=False)
    return pl.Trainer(
        **{
            "max_epochs": epochs,
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": directory,
            "plugins": plugins,
            "callbacks": callbacks,
            "log_every_n_steps": 1,
            **options,
        }
    )


def listing(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*.ckpt"))


def content(plugins, path):
    return plugins[0].load_checkpoint(path) if plugins else torch.load(path, weights_only=False)


def assert_same(ours, stock, directories, where=""):
    """Values, types, order of keys; paths as they lie below the directory of each."""
    mine, its = directories
    if isinstance(stock, str):
        assert ours.replace(str(mine), "") == stock.replace(str(its), ""), where
    elif isinstance(stock, torch.Tensor):
        assert ours.dtype == stock.dtype, where
        assert torch.equal(ours, stock), where
    elif isinstance(stock, dict):
        # torch's own state dicts are ordered ones, which say no more than a dict does.
        assert type(ours) in {type(stock), dict}, where
        assert [str(key).replace(str(mine), "") for key in ours] == [str(key).replace(str(its), "") for key in stock], (
            where
        )
        for (key, value), other in zip(stock.items(), ours.values(), strict=True):
            assert_same(other, value, directories, f"{where}/{key}")
    elif isinstance(stock, (list, tuple)):
        assert type(ours) is type(stock), where
        assert len(ours) == len(stock), where
        for at, (one, other) in enumerate(zip(ours, stock, strict=True)):
            assert_same(one, other, directories, f"{where}/{at}")
    else:
        assert type(ours) is type(stock), where
        assert ours == stock or (isinstance(stock, float) and math.isnan(ours) and math.isnan(stock)), where


def run(directory, plugins, epochs, ckpt_path=None):
    callbacks = [
        ModelCheckpoint(
            directory / "ck", filename="{epoch}-{score:.3f}", monitor="score", save_top_k=2, save_last=True
        ),
        EarlyStopping("score", patience=3),
        Counting(),
        StochasticWeightAveraging(0.01, swa_epoch_start=2),
    ]
    fitted = trainer(directory, plugins, epochs, callbacks)
    fitted.fit(Model(options={"a": [1, {"b": None}]}), datamodule=Data(), ckpt_path=ckpt_path)
    return fitted


@pytest.mark.parametrize("is_resumed", [False, True])
def test_every_value_of_a_checkpoint_is_as_stock_has_it(tmp_path, plugin, is_resumed):
    kinds = {"ours": [plugin], "stock": []}
    for kind, plugins in kinds.items():
        if is_resumed:
            run(tmp_path / kind, plugins, 2)
            run(tmp_path / kind, plugins, 4, ckpt_path="last")
        else:
            run(tmp_path / kind, plugins, 4)
    directories = tmp_path / "ours", tmp_path / "stock"
    assert listing(directories[0]) == listing(directories[1])
    for name in listing(directories[1]):
        ours, stock = (content(kinds[kind], tmp_path / kind / name) for kind in kinds)
        assert_same(ours, stock, directories, name)


SAVING = {
    "every step, all": {"every_n_train_steps": 1, "save_top_k": -1},
    "every second step, the newest": {"every_n_train_steps": 2},
    "the best two": {"monitor": "loss", "save_top_k": 2, "every_n_epochs": 1},
    "the worst": {"monitor": "loss", "mode": "max", "filename": "worst"},
    "the best two of one name": {"monitor": "epoch", "mode": "max", "save_top_k": 2, "filename": "best"},
    "no version": {"monitor": "epoch", "save_top_k": -1, "filename": "best", "enable_version_counter": False},
    "none but the last": {"save_top_k": 0, "save_last": True},
    "a link, of the best": {"monitor": "epoch", "mode": "max", "save_top_k": 1, "save_last": "link"},
    "each second epoch": {"every_n_epochs": 2, "save_top_k": -1},
    "by the clock": {"train_time_interval": datetime.timedelta(0), "save_top_k": -1},
    "weights": {"save_weights_only": True, "save_top_k": -1},
    "in directories by name": {"filename": "{epoch}/{loss:.2f}", "save_top_k": -1},
    "names with spaces": {
        "filename": "epoch={epoch} [loss {loss:.1f}]",
        "auto_insert_metric_name": False,
        "save_top_k": -1,
    },
    "at the end of training epochs": {"save_on_train_epoch_end": True, "monitor": "loss", "save_top_k": 2},
}


@pytest.mark.parametrize("saving", SAVING.values(), ids=SAVING)
def test_what_is_kept_is_what_stock_keeps(tmp_path, plugin, saving):
    seen = {}
    for kind, plugins in {"ours": [plugin], "stock": []}.items():
        keeping = ModelCheckpoint(tmp_path / kind, **saving)
        for epochs in (3, 4):  # the second goes on in the same directory
            path = "last" if saving.get("save_last") else None
            trainer(tmp_path / kind, plugins, epochs, [keeping]).fit(Model(), Data(), ckpt_path=path)
        names = listing(tmp_path / kind)
        steps = [content(plugins, tmp_path / kind / name)["global_step"] for name in names]
        best = {path.replace(str(tmp_path / kind), ""): float(value) for path, value in keeping.best_k_models.items()}
        paths = [path.replace(str(tmp_path / kind), "") for path in (keeping.best_model_path, keeping.last_model_path)]
        seen[kind] = names, steps, best, paths
    assert seen["ours"] == seen["stock"]


def test_what_an_exception_leaves_is_what_stock_leaves(tmp_path, plugin):
    class Failing(pl.Callback):
        def on_train_batch_start(self, trainer, *_):
            if trainer.global_step == 4:
                raise RuntimeError("the batch is bad")

    seen = {}
    for kind, plugins in {"ours": [plugin], "stock": []}.items():
        directory = tmp_path / kind
        callbacks = [
            ModelCheckpoint(directory / "ck", save_top_k=-1, save_on_exception=True),
            OnExceptionCheckpoint(directory),
        ]
        with pytest.raises(RuntimeError, match="the batch is bad"):
            trainer(directory, plugins, 3, [*callbacks, Failing()]).fit(Model(), Data())
        seen[kind] = [(name, content(plugins, directory / name)["global_step"]) for name in listing(directory)]
        again = trainer(directory, plugins, 3, callbacks)
        again.fit(Model(), Data())  # goes on from what the exception left, and removes that
        seen[kind].append((again.global_step, listing(directory)))
    assert seen["ours"] == seen["stock"]


def test_loggers_versions_and_best_are_as_stock(tmp_path, plugin):
    seen = {}
    for kind, plugins in {"ours": [plugin], "stock": []}.items():
        for _ in range(2):
            logger = CSVLogger(tmp_path / kind)
            fitted = trainer(tmp_path / kind, plugins, 2, [LearningRateMonitor()], logger=logger)
            fitted.fit(Model(), Data())
            fitted.validate(ckpt_path="best", datamodule=Data(), verbose=False)
        fitted.save_checkpoint(tmp_path / kind / "hpc_ckpt_2.ckpt")
        on = trainer(tmp_path / kind, plugins, 3, [], logger=False, enable_checkpointing=False)
        on.fit(Model(), Data(), ckpt_path="hpc")
        names = listing(tmp_path / kind)
        seen[kind] = names, on.global_step, [content(plugins, tmp_path / kind / name)["epoch"] for name in names]
    assert seen["ours"] == seen["stock"]
