"""Fits whose paths are URLs of a real bucket, with Lightning's own files and with ckptd's."""

from __future__ import annotations

import warnings

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from lightning.fabric.plugins import TorchCheckpointIO
    from lightning.fabric.utilities.cloud_io import get_filesystem
    from lightning.pytorch.callbacks import ModelCheckpoint

import ckptd  # noqa: E402
from ckptd.torch import CkptdCheckpointIO, load  # noqa: E402
from tests.unit.torch.test_lightning_cases import Model, said_by, trainer  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


def listing(directory):
    """Return what Lightning sees there, as it looks for the last."""
    file_system = get_filesystem(directory)
    file_system.invalidate_cache()
    names = [path.rpartition("/")[2] for path in file_system.ls(directory, detail=False)]
    return sorted(name for name in names if name.endswith(".ckpt"))


def test_a_fit_in_a_bucket_is_as_with_lightnings_own_files(tmp_path, s3_root):
    seen = {}
    for name, plugin in (("ours", CkptdCheckpointIO()), ("stock", TorchCheckpointIO())):
        directory = f"{s3_root}/{name}"
        said = []
        for epochs in (1, 3):  # the score gets better, so that the first one goes
            keeping = ModelCheckpoint(directory, monitor="score", save_top_k=1, save_last=True, filename="{epoch}")
            fitted = trainer(tmp_path, plugin, [keeping], max_epochs=epochs, limit_train_batches=1)
            fitted.fit(Model((3.0, 2.0, 1.0)), ckpt_path="last" if epochs == 3 else None)
            said.append((said_by(keeping, directory), fitted.global_step))
        names = listing(directory)
        steps = [plugin.load_checkpoint(f"{directory}/{one}")["global_step"] for one in names]
        seen[name] = names, steps, said
    assert seen["ours"] == seen["stock"]


@pytest.mark.parametrize("name", ["final.ckpt", "epoch=1 [loss 1.5].ckpt"])
def test_what_a_program_saves_there_is_whole_and_can_be_removed(tmp_path, s3_root, name):
    plugin = CkptdCheckpointIO()
    fitted = trainer(tmp_path, plugin, [], enable_checkpointing=False, max_epochs=1)
    fitted.fit(Model())
    path = f"{s3_root}/{name}"
    for _ in range(2):
        fitted.save_checkpoint(path)
    assert ckptd.verify(path).ok
    assert load(path)["global_step"] == fitted.global_step
    assert torch.equal(plugin.load_from_checkpoint(Model, path).layer.weight, fitted.lightning_module.layer.weight)
    plugin.remove_checkpoint(path)
    plugin.teardown()
    assert get_filesystem(path).find(path) == []
    with pytest.raises(FileNotFoundError):
        plugin.load_checkpoint(path)
