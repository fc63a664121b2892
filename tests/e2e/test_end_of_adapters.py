"""A script that ends right after a save through a framework's adapter keeps it, or tells that it is lost."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.starts import prepared

BOUND_S = 120.0

TORCH = """
import torch, ckptd.torch
for step in (1, 2):
    ckptd.torch.save({"model": torch.nn.Linear(4, 2), "w": torch.zeros(4 << 20)}, "run", step)
"""
JAX = """
import jax.numpy as jnp, ckptd.jax
manager = ckptd.jax.CheckpointManager("run")
for step in (1, 2):
    manager.save(step, {"w": jnp.full(4 << 20, step)})
"""
SAVER = """
import numpy as np, tensorflow as tf, ckptd.tensorflow
saver = ckptd.tensorflow.Saver([tf.Variable(np.ones(4 << 20, np.float32), name="v")])
for step in (1, 2):
    saver.save(None, "run/model.ckpt", global_step=step, wait=False)
"""
KERAS = """
import keras, numpy as np, ckptd.tensorflow
class Stop(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            raise SystemExit(0)
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
keep = ckptd.tensorflow.ModelCheckpoint("run/model.ckpt-{epoch}")
model.fit(np.ones((8, 4)), np.ones((8, 1)), epochs=3, verbose=0, callbacks=[keep, Stop()])
"""
LIGHTNING = """
import torch, ckptd.torch
io = ckptd.torch.CkptdCheckpointIO()
for step in (1, 2):
    io.save_checkpoint({"state_dict": {"w": torch.zeros(4 << 20)}, "global_step": step}, f"run/{step}.ckpt")
"""
TRANSFORMERS = """
import torch, transformers, ckptd.torch
from tests.starts import prepared
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1 << 16)
    def forward(self, x, labels=None):
        return {"loss": self.layer(x).mean()}
class Stop(transformers.TrainerCallback):
    def on_step_begin(self, args, state, control, **_):
        if state.global_step == 2:
            raise SystemExit(0)
rows = [{"x": torch.ones(4), "labels": torch.ones(1)}] * 8
args = transformers.TrainingArguments(
    "out", max_steps=4, save_steps=1, per_device_train_batch_size=2, report_to=[], use_cpu=True, disable_tqdm=True
)
transformers.Trainer(Model(), args, train_dataset=rows, callbacks=[ckptd.torch.CkptdCallback("run"), Stop()]).train()
"""
IMPORTS = {
    "torch": prepared.TORCH,
    "jax": prepared.JAX,
    "saver": prepared.TENSORFLOW,
    "keras": prepared.TENSORFLOW,
    "lightning": prepared.LIGHTNING,
    "transformers": (*prepared.TORCH, "ckptd.torch.transformers"),
}
PROGRAMS = {
    "torch": TORCH,
    "jax": JAX,
    "saver": SAVER,
    "keras": KERAS,
    "lightning": LIGHTNING,
    "transformers": TRANSFORMERS,
}


def run(adapter: str, program: str, directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return prepared.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        imports=IMPORTS[adapter],
        cwd=directory,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )


@pytest.mark.parametrize("adapter", PROGRAMS)
def test_a_script_that_ends_right_after_a_save_keeps_it(tmp_path: Path, adapter: str):
    ended = run(adapter, PROGRAMS[adapter], tmp_path)
    saved = sorted(path.name for path in tmp_path.glob("run/**/*.index"))
    assert (ended.returncode, saved) == (0, ["model.ckpt-1.index", "model.ckpt-2.index"]), ended.stderr
    assert "lost" not in ended.stderr


@pytest.mark.parametrize("adapter", ["torch", "jax"])
def test_a_script_beside_a_daemon_that_ends_right_after_a_save_keeps_it(daemon, tmp_path: Path, adapter: str):
    ended = run(adapter, PROGRAMS[adapter], tmp_path, CKPTD_ADDRESS=daemon.address)
    saved = sorted(path.name for path in daemon.root.glob("**/*.index"))
    assert (ended.returncode, saved) == (0, ["model.ckpt-1.index", "model.ckpt-2.index"]), ended.stderr


def test_a_save_that_is_lost_through_an_adapter_is_told_once(tmp_path: Path):
    program = 'import torch, ckptd.torch\nckptd.torch.save({"w": torch.zeros(3)}, "/proc/nowhere/run", 1)'
    ended = run("torch", program, tmp_path)
    assert ended.returncode == 120, ended.stderr
    assert ended.stderr.count("the save of step 1 of run at /proc/nowhere is lost") == 1
    assert "Traceback" not in ended.stderr
