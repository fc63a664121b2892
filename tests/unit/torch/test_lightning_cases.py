"""Cases of Lightning's own tests of checkpoints, each once with Lightning's files and once with ckptd's.

Compared is what the plugin is asked to do, in order, what lies in the directory in the end, and what callback and
trainer say.
"""

from __future__ import annotations

import os
import warnings
from argparse import Namespace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.demos.boring_classes import BoringModel
    from lightning.pytorch.loggers import CSVLogger
    from lightning.pytorch.plugins import AsyncCheckpointIO, TorchCheckpointIO

from ckptd.torch import CkptdCheckpointIO  # noqa: E402
from tests.unit.client.served import Daemon  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

NAN = float("nan")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    running = Daemon(tmp_path_factory.mktemp("daemon") / "root")
    yield running
    running.stop()


class Noting:
    """Notes what Lightning asks of the plugin, with the paths below the directory."""

    asked: list

    def noted(self, directory):
        self.asked, self._directory = [], directory
        return self

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        self._note("save", path, checkpoint.get("global_step"))
        super().save_checkpoint(checkpoint, path, storage_options)

    def load_checkpoint(self, path, *arguments, **named):
        self._note("load", path)
        return super().load_checkpoint(path, *arguments, **named)

    def remove_checkpoint(self, path):
        self._note("remove", path)
        super().remove_checkpoint(path)

    def _note(self, verb, path, *more):
        self.asked.append((verb, str(path).replace(str(self._directory), ""), *more))


class Stock(Noting, TorchCheckpointIO):
    """Lightning's own."""


class Ours(Noting, CkptdCheckpointIO):
    """ckptd's."""


@pytest.fixture(params=["direct", "daemon"])
def ours(request, tmp_path):
    if request.param == "direct":
        return Ours()
    return Ours(request.getfixturevalue("daemon").address, run=f"runs/{tmp_path.name}")


class Model(BoringModel):
    """Logs values that are known before, in training and in validation."""

    def __init__(self, values=(3.0, 1.0, 2.0, 5.0, 4.0)):
        super().__init__()
        self.values = values
        self.validated = 0

    def training_step(self, batch, index):
        self.log("loss", float(index + self.current_epoch), on_epoch=True)
        return super().training_step(batch, index)

    def validation_step(self, batch, index):
        self.log("score", self.values[self.validated % len(self.values)])
        return super().validation_step(batch, index)

    def on_validation_epoch_end(self):
        self.validated += not self.trainer.sanity_checking

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.layer.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


class ByHand(Model):
    """Optimizes by itself, twice in each batch, so that steps and batches are counted apart."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, index):
        loss = super().training_step(batch, index)["loss"]
        self.manual_backward(loss)
        for _ in range(2):
            self.optimizers().step()


def trainer(directory, plugin, callbacks, **options):
    pl.seed_everything(1, verbose=False)
    return pl.Trainer(
        **{
            "max_epochs": 2,
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "limit_train_batches": 4,
            "limit_val_batches": 1,
            "limit_test_batches": 1,
            "default_root_dir": directory,
            "plugins": [plugin],
            "callbacks": callbacks,
            **options,
        }
    )


def steps_of(directory, plugin):
    """Return what lies there, with the step of each; a link, too."""
    found = sorted(path for path in Path(directory).rglob("*") if path.suffix in {".ckpt", ".tpkc"})
    return {
        str(path.relative_to(directory)): (plugin.load_checkpoint(path)["global_step"], path.is_symlink())
        for path in found
    }


def said_by(saving, directory):
    """Return what the callback says of its checkpoints."""

    def short(path):
        return str(path).replace(str(directory), "")

    return (
        {short(path): repr(float(score)) for path, score in saving.best_k_models.items()},
        *map(short, (saving.best_model_path, saving.kth_best_model_path, saving.last_model_path, saving.dirpath)),
        repr(saving.best_model_score),
        repr(saving.current_score),
    )


def assert_as_stock(tmp_path, ours, case):
    """Run a case with both, and compare what it returns beside what was asked of the plugin and what is left."""
    seen = {}
    for plugin, name in ((ours, "ours"), (Stock(), "stock")):
        directory = tmp_path / name
        directory.mkdir()
        result = case(directory, plugin.noted(directory))
        asked = list(plugin.asked)
        seen[name] = result, asked, steps_of(directory, plugin)
    assert seen["ours"] == seen["stock"]
    return seen["stock"]


EVERY = {
    "each epoch": ({}, {}),
    "four times in an epoch": ({}, {"val_check_interval": 0.25, "max_epochs": 1}),
    "where validation does not end an epoch": ({}, {"val_check_interval": 0.3, "limit_train_batches": 10}),
    "the best, validated often": ({"monitor": "score", "save_top_k": 2}, {"val_check_interval": 0.25}),
    "all, validated often": (
        {"monitor": "score", "save_top_k": -1, "filename": "{score:.2f}-{epoch}"},
        {"val_check_interval": 0.5},
    ),
    "the best of training": ({"monitor": "loss_epoch", "save_top_k": 2, "mode": "max"}, {"max_epochs": 3}),
    "the best of steps": ({"monitor": "loss_step", "every_n_train_steps": 1, "save_top_k": 2}, {}),
    "validated each second epoch": (
        {"monitor": "epoch", "save_top_k": -1, "filename": "{epoch}"},
        {"check_val_every_n_epoch": 2, "max_epochs": 5},
    ),
    "steps over epochs": ({"every_n_train_steps": 3, "every_n_epochs": 0, "save_top_k": -1}, {"max_epochs": 3}),
    "never by epochs": ({"every_n_epochs": 0, "save_top_k": -1}, {}),
    "the third epoch": ({"every_n_epochs": 3, "save_top_k": -1, "filename": "{epoch}"}, {"max_epochs": 5}),
    "none": ({"save_top_k": 0}, {}),
    "the last, whatever the others": (
        {"every_n_epochs": 5, "save_last": True, "save_top_k": 0, "save_on_train_epoch_end": True},
        {},
    ),
    "the last, validated often": (
        {"monitor": "score", "save_top_k": 2, "save_last": True},
        {"val_check_interval": 0.3},
    ),
    "a link, validated often": (
        {"monitor": "score", "save_top_k": 2, "save_last": "link"},
        {"val_check_interval": 0.25, "max_epochs": 1},
    ),
    "a dry run": ({"save_last": True}, {"fast_dev_run": True}),
    "few batches": ({"monitor": "score", "filename": "{score:.2f}"}, {"overfit_batches": 0.05, "max_epochs": 1}),
}


@pytest.mark.parametrize(("saving", "options"), EVERY.values(), ids=EVERY)
def test_saves_and_removals_come_as_often_and_in_the_same_order(tmp_path, ours, saving, options):
    def case(directory, plugin):
        keeping = ModelCheckpoint(directory, **saving)
        fitted = trainer(directory, plugin, [keeping], **options)
        fitted.fit(Model())
        return said_by(keeping, directory), fitted.global_step

    assert_as_stock(tmp_path, ours, case)


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("values", [(NAN, 5.0, 7.0, 6.0), (NAN, NAN, NAN, NAN), (2.0, NAN, float("inf"), 1.0)])
def test_a_score_that_is_no_number(tmp_path, ours, mode, values):
    def case(directory, plugin):
        keeping = ModelCheckpoint(directory, monitor="score", mode=mode, save_top_k=1, filename="{epoch}")
        trainer(directory, plugin, [keeping], max_epochs=4, limit_train_batches=1).fit(Model(values))
        return said_by(keeping, directory)

    assert_as_stock(tmp_path, ours, case)


def with_steps_of_its_own(directory, plugin):
    keeping = ModelCheckpoint(directory, every_n_train_steps=2, save_top_k=-1)
    trainer(directory, plugin, [keeping]).fit(ByHand())


class OtherSuffix(ModelCheckpoint):
    FILE_EXTENSION = ".tpkc"
    CHECKPOINT_NAME_LAST = "last-{epoch}"


def with_names_of_its_own(directory, plugin):
    for epochs in (2, 3):
        keeping = OtherSuffix(directory, monitor="score", save_top_k=1, save_last=True)
        trainer(directory, plugin, [keeping], max_epochs=epochs).fit(Model(), ckpt_path="last")
    return said_by(keeping, directory)


def with_two_callbacks_in_one_directory(directory, plugin):
    best = ModelCheckpoint(directory, monitor="score", filename="best-{epoch}")
    rhythm = ModelCheckpoint(directory, every_n_train_steps=3, filename="{step}", save_top_k=-1, save_last=True)
    trainer(directory, plugin, [best, rhythm], max_epochs=3).fit(Model())
    again = trainer(directory, plugin, [best, rhythm], max_epochs=4)
    again.fit(Model(), ckpt_path="last")
    return said_by(best, directory), said_by(rhythm, directory), again.global_step


def with_one_trainer_twice(directory, plugin):
    keeping = ModelCheckpoint(directory, monitor="epoch", save_top_k=-1, filename="test")
    keeping.STARTING_VERSION = 9
    fitted = trainer(directory, plugin, [keeping])
    fitted.fit(Model())
    fitted.fit_loop.max_epochs = 4
    fitted.fit(Model())
    return said_by(keeping, directory)


def with_last_versions(directory, plugin):
    for _ in range(3):
        keeping = ModelCheckpoint(directory, save_top_k=0, save_last=True)
        trainer(directory, plugin, [keeping], max_epochs=1).fit(Model())
    return said_by(keeping, directory)


def with_one_checkpoint_fitted_again(directory, plugin):
    keeping = ModelCheckpoint(directory, monitor="score", filename="{epoch:02d}")
    trainer(directory, plugin, [keeping], max_epochs=1).fit(Model())
    counted = []
    for _ in range(2):
        again = trainer(directory, plugin, [], max_epochs=1, enable_checkpointing=False)
        again.fit(Model(), ckpt_path=keeping.best_model_path)
        again.test(Model(), ckpt_path=keeping.best_model_path, verbose=False)
        again.predict(Model(), torch.utils.data.DataLoader(torch.ones(1, 32)), ckpt_path=keeping.best_model_path)
        counted.append((again.global_step, again.current_epoch, again.fit_loop.epoch_progress.current.processed))
    return counted


def with_fine_tuning_from_the_best(directory, plugin):
    best = []
    for epochs in (1, 3, 4):
        fitted = trainer(directory, plugin, [], max_epochs=epochs, logger=CSVLogger(directory, name=f"{epochs}"))
        fitted.fit(Model(), ckpt_path=best[-1] if best else None)
        fitted.test(ckpt_path="best", verbose=False)
        best.append(fitted.checkpoint_callback.best_model_path)
    return [path.replace(str(directory), "") for path in best]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_fit_that_goes_on_leaves_what_an_earlier_one_has_saved(tmp_path, ours, elsewhere):
    def case(directory, plugin):
        options = {"monitor": "step", "mode": "max", "save_last": True, "save_top_k": 2, "every_n_train_steps": 1}
        keeping = ModelCheckpoint(directory / "first", filename="{step}", **options)
        trainer(directory, plugin, [keeping], max_epochs=1).fit(Model())
        said = said_by(keeping, directory)
        keeping = ModelCheckpoint(directory / ("second" if elsewhere else "first"), filename="{step}", **options)
        trainer(directory, plugin, [keeping]).fit(Model(), ckpt_path=directory / "first/step=3.ckpt")
        return said, said_by(keeping, directory)

    assert_as_stock(tmp_path, ours, case)


def with_a_logger_of_a_name(directory, plugin):
    fitted = trainer(directory, plugin, [], logger=CSVLogger(directory, version="awesome"), max_epochs=1)
    fitted.fit(Model())
    return said_by(fitted.checkpoint_callback, directory)


def with_the_best_in_yaml(directory, plugin):
    keeping = ModelCheckpoint(directory, monitor="score", save_top_k=2)
    trainer(directory, plugin, [keeping]).fit(Model())
    keeping.to_yaml()
    return (directory / "best_k_models.yaml").read_text().replace(str(directory), "")


def with_paths_of_a_program(directory, plugin):
    fitted = trainer(directory, plugin, [], enable_checkpointing=False)
    fitted.fit(Model())
    for path in (
        directory / "a.ckpt",
        f"{directory}/deep/er/b.ckpt",
        f"file://{directory}/c.ckpt",
        directory / "d.ckpt",
    ):
        fitted.save_checkpoint(path)
    fitted.save_checkpoint(directory / "a.ckpt", weights_only=True)
    weights = plugin.load_checkpoint(directory / "a.ckpt")
    return sorted(weights), sorted(plugin.load_checkpoint(directory / "d.ckpt"))


def with_the_users_directory(directory, plugin):
    home, os.environ["HOME"] = os.environ.get("HOME", ""), str(directory)
    try:
        keeping = ModelCheckpoint("~/by-callback", filename="{epoch}")
        fitted = trainer(directory, plugin, [keeping])
        fitted.fit(Model())
        fitted.save_checkpoint("~/mine.ckpt")
        again = trainer(directory, plugin, [], max_epochs=3, enable_checkpointing=False)
        again.fit(Model(), ckpt_path="~/mine.ckpt")
    finally:
        os.environ["HOME"] = home
    return said_by(keeping, directory), again.global_step


def with_a_namespace(directory, plugin):
    class Configured(Model):
        def __init__(self, config):
            super().__init__()
            self.save_hyperparameters(config)

    fitted = trainer(directory, plugin, [], enable_checkpointing=False)
    fitted.fit(Configured(Namespace(rate=0.1, names=["a"])))
    fitted.save_checkpoint(directory / "a.ckpt")
    found = plugin.load_checkpoint(directory / "a.ckpt")["hyper_parameters"]
    return type(found), found


def with_the_model_pickled(directory, plugin):
    fitted = trainer(directory, plugin, [ModelCheckpoint(directory)])
    model = Model()
    fitted.fit(model)
    torch.save(fitted.model, directory / "model.pt")
    again = torch.load(directory / "model.pt", weights_only=False)
    return torch.equal(again.layer.weight, model.layer.weight)


def with_saves_in_a_thread_of_lightnings(directory, plugin):
    keeping = ModelCheckpoint(directory, monitor="score", save_top_k=2, save_last=True)
    fitted = trainer(directory, AsyncCheckpointIO(plugin), [keeping])
    fitted.fit(Model())
    again = trainer(directory, AsyncCheckpointIO(plugin), [], max_epochs=3, enable_checkpointing=False)
    again.fit(Model(), ckpt_path=directory / "last.ckpt")
    assert plugin.asked[-1] == ("load", "/last.ckpt")  # it is the one that Lightning wraps
    return said_by(keeping, directory), again.global_step


CASES = [one for name, one in list(globals().items()) if name.startswith("with_")]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_it_is_as_with_lightnings_own(tmp_path, ours, case):
    assert_as_stock(tmp_path, ours, case)


def test_errors_are_of_the_classes_that_lightning_raises(tmp_path, ours):
    def case(directory, plugin):
        fitted = trainer(directory, plugin, [], enable_checkpointing=False)
        fitted.fit(Model())
        caught = []
        for kind, call in (
            (TypeError, lambda: fitted.save_checkpoint(directory / "a.ckpt", storage_options="fast")),
            (FileNotFoundError, lambda: fitted.fit(Model(), ckpt_path=directory / "nowhere.ckpt")),
            (FileNotFoundError, lambda: fitted.test(Model(), ckpt_path=directory / "nowhere.ckpt")),
        ):
            with pytest.raises(kind) as told:
                call()
            caught.append((kind, str(told.value).partition(":")[0] if kind is FileNotFoundError else None))
        return caught

    assert_as_stock(tmp_path, ours, case)
