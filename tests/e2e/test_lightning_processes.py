"""Lightning's own launcher starts two processes: what they train and keep is what they do with stock checkpoints."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.starts import prepared

pytest.importorskip("torch")
pytest.importorskip("lightning")

BOUND_S = 180
PROGRAM = """
import pathlib, sys, warnings
warnings.simplefilter("ignore")
import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from ckptd.torch import CkptdCheckpointIO
from tests.starts import prepared

kind, directory = sys.argv[1:]
for epochs in (2, 3):
    pl.seed_everything(1, verbose=False)
    saving = ModelCheckpoint(directory, filename="best", save_top_k=-1, monitor="epoch", save_last="link")
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", devices=2, strategy="ddp", logger=False, callbacks=[saving],
        plugins=[CkptdCheckpointIO()] if kind == "ckptd" else [], limit_train_batches=3, limit_val_batches=1,
        enable_progress_bar=False, enable_model_summary=False,
    )
    model = BoringModel()
    trainer.fit(model, ckpt_path="last")
torch.distributed.barrier()  # the end of rank 0's `fit` has its saves durable
names = sorted(path.name for path in pathlib.Path(directory).glob("*.ckpt"))
kept = {name: trainer.strategy.load_checkpoint(f"{directory}/{name}", weights_only=False)["epoch"] for name in names}
weight = model.layer.weight.detach().numpy().tobytes().hex()
pathlib.Path(f"{directory}/result-{trainer.global_rank}").write_text(repr((trainer.global_step, kept, weight)))
torch.distributed.barrier()  # the first process that ends would end the other
"""


def test_two_processes_keep_and_continue_what_stock_does(tmp_path: Path):
    script = tmp_path / "train.py"
    script.write_text(PROGRAM)
    environment = {name: value for name, value in os.environ.items() if name != "CKPTD_ADDRESS"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    results = {}
    for kind in ("stock", "ckptd"):
        directory = tmp_path / kind
        ended = prepared.run(
            [sys.executable, str(script), kind, str(directory)],
            imports=prepared.LIGHTNING,
            children_fork=True,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=BOUND_S,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr[-4000:]
        results[kind] = [(directory / f"result-{rank}").read_text() for rank in range(2)]
    assert results["ckptd"] == results["stock"]
    assert "'best-v2.ckpt': 2" in results["stock"][0]
