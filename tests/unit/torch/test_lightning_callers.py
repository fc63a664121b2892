"""What Lightning's callbacks save goes on in the background; what a program saves is there when the call returns."""

from __future__ import annotations

import warnings

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.demos.boring_classes import BoringModel

from ckptd.torch import CkptdCheckpointIO  # noqa: E402
from ckptd.torch.lightning_callers import is_rhythm  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


class Noting(CkptdCheckpointIO):
    def save_checkpoint(self, checkpoint, path, storage_options=None):
        noted[str(path).rpartition("/")[2]] = is_rhythm()
        super().save_checkpoint(checkpoint, path, storage_options)


class OfAProgram(ModelCheckpoint):
    def on_train_epoch_end(self, trainer, module):
        super().on_train_epoch_end(trainer, module)
        trainer.save_checkpoint(f"{self.dirpath}/mine.ckpt")

    def _save_checkpoint(self, trainer, filepath):
        super()._save_checkpoint(trainer, filepath)


class TrainerOfAProgram(pl.Trainer):
    def save_checkpoint(self, *arguments, **named):
        super().save_checkpoint(*arguments, **named)


noted: dict[str, bool] = {}


@pytest.mark.parametrize("kind", [pl.Trainer, TrainerOfAProgram])
def test_only_what_lightnings_own_code_saves_is_not_waited_for(tmp_path, kind):
    noted.clear()
    trainer = kind(
        max_epochs=1,
        limit_train_batches=2,
        limit_val_batches=0,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[Noting()],
        callbacks=[OfAProgram(tmp_path, filename="{epoch}", save_last=True)],
    )
    trainer.fit(BoringModel())
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    assert noted == {"epoch=0.ckpt": True, "last.ckpt": True, "mine.ckpt": False, "after.ckpt": False}
