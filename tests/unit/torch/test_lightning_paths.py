"""What Lightning sees at the paths that it names, as beside its own files: taken names, links, the last, copies."""

from __future__ import annotations

import copy
import os
import pickle
import sys
import warnings

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.demos.boring_classes import BoringModel
    from omegaconf import OmegaConf

import ckptd  # noqa: E402
from ckptd.torch import CkptdCheckpointIO, lightning_paths, load  # noqa: E402
from tests import seams  # noqa: E402
from tests.starts import prepared  # noqa: E402
from tests.unit.client.served import Daemon  # noqa: E402
from tests.unit.torch.test_lightning import ByCallback  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

STATE = {"w": torch.ones(2), "global_step": 1}


@pytest.fixture
def daemon(tmp_path):
    running = Daemon(tmp_path / "root")
    yield running
    running.stop()


@pytest.fixture(params=["stock", "direct", "daemon"])
def plugins(request):
    """Three ways to keep checkpoints, which Lightning's own callbacks must not be able to tell apart."""
    if request.param == "daemon":
        return [CkptdCheckpointIO(request.getfixturevalue("daemon").address, run="runs/fit")]
    return [CkptdCheckpointIO()] if request.param == "direct" else []


def trainer(directory, plugins, epochs, callbacks, **options):
    return pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_train_batches=2,
        limit_val_batches=1,
        default_root_dir=directory,
        plugins=plugins,
        callbacks=callbacks,
        **options,
    )


def listing(directory):
    return sorted(path.name for path in directory.iterdir() if path.suffix == ".ckpt")


def epoch_at(plugins, path):
    if plugins:
        return plugins[0].load_checkpoint(path)["epoch"]
    return torch.load(path, weights_only=False)["epoch"]


class LastByEpoch(ModelCheckpoint):
    CHECKPOINT_NAME_LAST = "last-{epoch}"


def test_a_link_that_is_removed_leaves_the_checkpoint_that_it_names(tmp_path, plugins):
    saving = LastByEpoch(tmp_path / "ck", filename="{epoch}", save_top_k=-1, save_last="link")
    trainer(tmp_path, plugins, 3, [saving]).fit(BoringModel())
    assert listing(tmp_path / "ck") == ["epoch=0.ckpt", "epoch=1.ckpt", "epoch=2.ckpt", "last-epoch=2.ckpt"]
    assert (tmp_path / "ck/last-epoch=2.ckpt").is_symlink()
    for name, epoch in (("epoch=0", 0), ("epoch=1", 1), ("epoch=2", 2), ("last-epoch=2", 2)):
        assert epoch_at(plugins, tmp_path / "ck" / f"{name}.ckpt") == epoch


def test_a_name_that_is_being_saved_is_taken(tmp_path, plugins):
    saving = ModelCheckpoint(tmp_path / "ck", filename="best", save_top_k=-1, monitor="epoch")
    trainer(tmp_path, plugins, 4, [saving]).fit(BoringModel())
    assert listing(tmp_path / "ck") == ["best-v1.ckpt", "best-v2.ckpt", "best-v3.ckpt", "best.ckpt"]
    assert [epoch_at(plugins, path) for path in sorted(saving.best_k_models, key=saving.best_k_models.get)] == [
        0,
        1,
        2,
        3,
    ]


@pytest.mark.parametrize("save_last", [True, "link"])
def test_the_last_is_found_and_continued(tmp_path, plugins, save_last):
    for epochs in (2, 3):
        trained = []

        class Seen(pl.Callback):
            def on_train_epoch_start(self, trainer, _, trained=trained):
                trained.append(trainer.current_epoch)

        saving = ModelCheckpoint(tmp_path / "ck", filename="{epoch}", save_top_k=-1, save_last=save_last)
        trainer(tmp_path, plugins, epochs, [saving, Seen()]).fit(BoringModel(), ckpt_path="last")
        assert trained == ([0, 1] if epochs == 2 else [2])
    assert listing(tmp_path / "ck") == ["epoch=0.ckpt", "epoch=1.ckpt", "epoch=2.ckpt", "last.ckpt"]


def test_what_a_program_saves_itself_is_durable_when_the_call_returns(tmp_path, plugins):
    with_model = trainer(tmp_path, plugins, 1, [], enable_checkpointing=False)
    with_model.fit(BoringModel())
    with_model.save_checkpoint(tmp_path / "ck/final.ckpt")
    assert (tmp_path / "ck/final.ckpt").exists()
    if plugins and not plugins[0].address:
        assert ckptd.verify(tmp_path / "ck/final.ckpt").ok
    assert epoch_at(plugins, tmp_path / "ck/final.ckpt") == 1


def test_the_plugin_can_be_copied_and_pickled(tmp_path, plugins):
    for each in plugins:
        again = pickle.loads(pickle.dumps(copy.deepcopy(each)))
        again.save_checkpoint(STATE, tmp_path / "ck/copied.ckpt")
        assert each.load_checkpoint(tmp_path / "ck/copied.ckpt")["global_step"] == 1


SPAWNING = """
import sys, warnings
warnings.simplefilter("ignore")
import lightning.pytorch as pl, torch
from lightning.pytorch.demos.boring_classes import BoringModel
from ckptd.torch import CkptdCheckpointIO

if __name__ == "__main__":
    directory, address = sys.argv[1:]
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        limit_train_batches=2, limit_val_batches=1, default_root_dir=directory, enable_checkpointing=False,
        plugins=[CkptdCheckpointIO(address, run="runs/fit")], strategy="ddp_spawn", devices=2,
    )
    model = BoringModel()
    before = model.layer.weight.detach().clone()
    trainer.fit(model)
    print("came back through a checkpoint:", not torch.equal(model.layer.weight, before))
"""


@pytest.mark.parametrize("where", ["direct", "daemon"])
def test_spawned_processes_hand_their_weights_back(tmp_path, daemon, where):
    """Stock as well, a process of torch's now and then aborts as its gloo ends: then it is tried again."""
    (tmp_path / "program.py").write_text(SPAWNING)
    for _ in range(4):
        ended = spawn(tmp_path, daemon.address if where == "daemon" else "")
        if "terminate called without an active exception" not in ended.stderr:
            break
    assert "came back through a checkpoint: True" in ended.stdout, ended.stderr[-3000:]


def spawn(tmp_path, address):
    return prepared.run(
        [sys.executable, "program.py", str(tmp_path), address],
        imports=prepared.LIGHTNING,
        children_fork=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


class Configured(BoringModel):
    def __init__(self, config):
        super().__init__()
        self.save_hyperparameters(config)


class Nested(BoringModel):
    def __init__(self, config):
        super().__init__()
        self.save_hyperparameters()
        self.rate = config.rate


@pytest.mark.parametrize("kind", [Configured, Nested])
def test_a_module_that_is_made_again_gets_the_containers_it_had(tmp_path, plugins, kind):
    fitted = trainer(tmp_path, plugins, 1, [], enable_checkpointing=False)
    fitted.fit(kind(OmegaConf.create({"rate": 0.1, "layers": [1, {"width": 2}]})))
    fitted.save_checkpoint(tmp_path / "ck/a.ckpt")
    if plugins:
        again = plugins[0].load_from_checkpoint(kind, tmp_path / "ck/a.ckpt").hparams
    else:
        again = kind.load_from_checkpoint(tmp_path / "ck/a.ckpt", weights_only=False).hparams
    assert type(again) is type(fitted.lightning_module.hparams)
    assert again == fitted.lightning_module.hparams
    assert (again if kind is Configured else again.config).layers[1].width == 2


def test_omegaconf_containers_are_stored_as_plain_ones(tmp_path, plugins):
    config = OmegaConf.create({"rate": 0.1, "layers": [1, 2], "again": "${rate}"})
    saving = ModelCheckpoint(tmp_path / "ck", filename="a")
    trainer(tmp_path, plugins, 1, [saving]).fit(Configured(config))
    if plugins:
        stored = plugins[0].load_checkpoint(tmp_path / "ck/a.ckpt")["hyper_parameters"]
        assert stored == {"rate": 0.1, "layers": [1, 2], "again": 0.1}
        assert (type(stored), type(stored["layers"])) == (dict, list)


def test_one_that_cannot_be_resolved_is_refused_by_name(tmp_path):
    state = {**STATE, "hyper_parameters": {"inner": OmegaConf.create({"a": "${nowhere}"})}}
    with pytest.raises(ckptd.InvalidRequestError, match="hyper_parameters/inner"):
        CkptdCheckpointIO().save_checkpoint(state, tmp_path / "a.ckpt")
    assert not (tmp_path / "a.ckpt").exists()


class Sized(BoringModel):
    def __init__(self, width=3):
        super().__init__()
        self.save_hyperparameters()
        self.more = torch.nn.Linear(width, 1)


def test_a_module_is_made_from_a_checkpoint_with_its_hyperparameters(tmp_path, daemon):
    for plugin in (CkptdCheckpointIO(), CkptdCheckpointIO(daemon.address)):
        fitted = trainer(tmp_path, [plugin], 1, [], enable_checkpointing=False)
        fitted.fit(Sized(width=5))
        fitted.save_checkpoint(tmp_path / "ck/sized.ckpt")
        again = plugin.load_from_checkpoint(Sized, tmp_path / "ck/sized.ckpt")
        assert again.hparams.width == 5
        assert torch.equal(again.more.weight, fitted.lightning_module.more.weight)


def test_a_checkpoint_of_lightnings_own_is_continued_and_not_lost_when_its_path_is_saved_to(tmp_path):
    saving = ModelCheckpoint(tmp_path / "ck", filename="{epoch}", save_top_k=-1, save_last=True)
    trainer(tmp_path, [], 2, [saving]).fit(BoringModel())
    saving = ModelCheckpoint(tmp_path / "ck", filename="{epoch}", save_top_k=-1, save_last=True)
    resumed = trainer(tmp_path, [CkptdCheckpointIO()], 3, [saving])
    resumed.fit(BoringModel(), ckpt_path="last")
    assert resumed.current_epoch == 3
    assert load(tmp_path / "ck/last.ckpt")["epoch"] == 2
    aside = tmp_path / "ck" / ("last.ckpt" + lightning_paths.ASIDE_SUFFIX)
    assert torch.load(aside, weights_only=False)["epoch"] == 1


def test_a_file_that_needs_unpickling_is_refused(tmp_path):
    torch.save({"callback": ByCallback()}, tmp_path / "a.ckpt")
    with pytest.raises(ckptd.InvalidRequestError, match=r"a\.ckpt: .*unpickling"):
        CkptdCheckpointIO().load_checkpoint(tmp_path / "a.ckpt")


def test_what_is_not_there_is_told_as_lightning_tells_it(tmp_path, daemon):
    for plugin in (CkptdCheckpointIO(), CkptdCheckpointIO(daemon.address)):
        with pytest.raises(FileNotFoundError, match="Checkpoint file not found") as told:
            plugin.load_checkpoint(tmp_path / "nowhere.ckpt")
        assert isinstance(told.value, ckptd.NotFoundError)
        assert not (tmp_path / "nowhere.ckpt").exists()


def test_a_daemons_checkpoint_without_its_daemon_says_what_is_missing(tmp_path, daemon):
    CkptdCheckpointIO(daemon.address, run="runs/fit").save_checkpoint(STATE, tmp_path / "a.ckpt")
    with pytest.raises(ckptd.InvalidRequestError, match="'runs/fit/a.ckpt' of a daemon"):
        CkptdCheckpointIO().load_checkpoint(tmp_path / "a.ckpt")


def test_removing_takes_no_file_that_is_not_ours(tmp_path, daemon):
    for plugin in (CkptdCheckpointIO(), CkptdCheckpointIO(daemon.address)):
        plugin.save_checkpoint(STATE, tmp_path / "a.ckpt")
        if (tmp_path / "a.ckpt").is_dir():
            (tmp_path / "a.ckpt/notes.txt").write_text("mine")
        plugin.remove_checkpoint(tmp_path / "a.ckpt")
        plugin.remove_checkpoint(tmp_path / "a.ckpt")
        if plugin.address:
            assert not (tmp_path / "a.ckpt").exists()
        else:
            assert [path.name for path in (tmp_path / "a.ckpt").iterdir()] == ["notes.txt"]
            (tmp_path / "a.ckpt/notes.txt").unlink()
            (tmp_path / "a.ckpt").rmdir()
        with pytest.raises(FileNotFoundError):
            plugin.load_checkpoint(tmp_path / "a.ckpt")


def test_a_first_save_that_fails_leaves_nothing_that_lightning_would_take_for_a_checkpoint(tmp_path, monkeypatch):
    plugin = CkptdCheckpointIO()

    def fail(*_):
        raise ckptd.StorageFullError("no room")

    with monkeypatch.context() as failing:
        seams.CREATE_ON_DISK.put(failing, fail)
        ByCallback().save(plugin, STATE, tmp_path / "a.ckpt")
        with pytest.raises(ckptd.StorageFullError):
            plugin.teardown()
        with pytest.raises(ckptd.StorageFullError):
            plugin.save_checkpoint(STATE, tmp_path / "b.ckpt")
    assert listing(tmp_path) == []
    plugin.save_checkpoint(STATE, tmp_path / "a.ckpt")
    with monkeypatch.context() as failing:
        seams.CREATE_ON_DISK.put(failing, fail)
        with pytest.raises(ckptd.StorageFullError):
            plugin.save_checkpoint(STATE, tmp_path / "a.ckpt")
    assert plugin.load_checkpoint(tmp_path / "a.ckpt")["global_step"] == 1  # the one before is still there


def test_a_path_is_the_same_however_it_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plugin = CkptdCheckpointIO()
    ByCallback().save(plugin, STATE, "a.ckpt")
    ByCallback().save(plugin, {**STATE, "global_step": 2}, tmp_path / "a.ckpt/")
    assert plugin.load_checkpoint("./a.ckpt")["global_step"] == 2
    plugin.teardown()


def test_paths_that_end_alike_are_two_checkpoints_of_a_daemon(tmp_path, daemon):
    for started in range(2):  # the second time as another process, which knows the pointers only
        plugin = CkptdCheckpointIO(daemon.address, run="runs/fit")
        for number in (1, 2):
            ByCallback().save(
                plugin, {**STATE, "number": number + 2 * started}, tmp_path / f"version_{number}" / "last.ckpt"
            )
        plugin.teardown()
        for number in (1, 2):
            found = plugin.load_checkpoint(tmp_path / f"version_{number}" / "last.ckpt")
            assert found["number"] == number + 2 * started
    CkptdCheckpointIO(daemon.address, run="runs/fit").save_checkpoint(STATE, tmp_path / "version_3/last.ckpt")
    plugin.remove_checkpoint(tmp_path / "version_4/last.ckpt")  # was never saved
    plugin.remove_checkpoint(tmp_path / "version_2/last.ckpt")
    plugin.teardown()
    assert plugin.load_checkpoint(tmp_path / "version_1/last.ckpt")["number"] == 3
    assert plugin.load_checkpoint(tmp_path / "version_3/last.ckpt")["global_step"] == 1
    with pytest.raises(FileNotFoundError) as told:
        plugin.load_checkpoint(tmp_path / "version_2/last.ckpt")  # not another path's
    assert "load it by its name alone, 'last.ckpt'" in str(told.value.__notes__)
    assert plugin.load_checkpoint("last.ckpt")["number"] == 3


@pytest.mark.parametrize("name", ["epoch=1 loss={x}.ckpt", "12:30:45.ckpt", "a b", "#1 (copy).ckpt", ".hidden.ckpt"])
def test_any_name_that_a_file_may_have(tmp_path, plugins, name):
    for plugin in plugins:
        where = tmp_path / "a dir [x]: 1" / name
        plugin.save_checkpoint(STATE, f"file://{where}")
        assert where.exists()
        plugin.save_checkpoint({**STATE, "global_step": 2}, where)
        assert plugin.load_checkpoint(where)["global_step"] == 2
        plugin.remove_checkpoint(where)
        plugin.teardown()
        assert not where.exists()


@pytest.mark.parametrize("link", [True, False])
def test_the_last_is_the_newest_whole_one_after_a_save_of_it_was_killed(tmp_path, plugins, link, caplog):
    for plugin in plugins:
        for step in (1, 2):
            plugin.save_checkpoint({**STATE, "global_step": step}, tmp_path / f"{step}.ckpt")
        lightning_paths.occupy(  # as a process that was killed leaves it
            str(tmp_path / ("3.ckpt" if link else "last.ckpt")), "runs/fit/3.ckpt" if plugin.address else None, None
        )
        if link:
            (tmp_path / "last.ckpt").symlink_to("3.ckpt")
            with pytest.raises(FileNotFoundError, match="never became durable"):
                plugin.load_checkpoint(tmp_path / "3.ckpt")  # this one and no other is meant
        assert plugin.load_checkpoint(tmp_path / "last.ckpt")["global_step"] == 2
        assert "2.ckpt is loaded" in caplog.text
        for step in (1, 2):
            plugin.remove_checkpoint(tmp_path / f"{step}.ckpt")
        plugin.teardown()
        with pytest.raises(FileNotFoundError, match="never became durable"):
            plugin.load_checkpoint(tmp_path / "last.ckpt")


@pytest.mark.parametrize("save_last", [True, "link"])
def test_a_program_that_was_killed_in_its_very_first_save_starts_anew_at_the_second_try(tmp_path, daemon, save_last):
    for number, plugin in enumerate((CkptdCheckpointIO(), CkptdCheckpointIO(daemon.address, run="runs/fit"))):
        directory = tmp_path / f"ck{number}"
        begun = directory / "epoch=0.ckpt"
        run = "runs/fit/epoch=0.ckpt" if number else None
        lightning_paths.occupy(str(begun), run, None)  # what a kill leaves of the first save
        if run is None:
            (begun / ".ckptd").mkdir()
        if save_last == "link":
            (directory / "last.ckpt").symlink_to("epoch=0.ckpt")
        else:
            lightning_paths.occupy(str(directory / "last.ckpt"), run and "runs/fit/last.ckpt", None)

        def start(plugin=plugin, directory=directory):
            saving = ModelCheckpoint(directory, filename="{epoch}", save_top_k=-1, save_last=save_last)
            trainer(tmp_path, [plugin], 1, [saving]).fit(BoringModel(), ckpt_path="last")

        with pytest.raises(FileNotFoundError) as told:
            start()
        assert any("the next start begins without" in note for note in told.value.__notes__)
        assert listing(directory) == []
        start()
        assert listing(directory) == ["epoch=0.ckpt", "last.ckpt"]
