"""Real trainings with Hugging Face's trainer, of a model that is made and not downloaded, saved by the callback."""

from __future__ import annotations

import random

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import ckptd  # noqa: E402
from ckptd.torch import CkptdCallback, load, random_state, set_random_state  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

BATCHES_PER_EPOCH = 4


class StopError(Exception):
    """Ends a training in the middle."""


class StopAt(transformers.TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise StopError


def make_trainer(directory, *callbacks, **arguments):
    transformers.set_seed(3)
    config = transformers.GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    model = transformers.GPT2LMHeadModel(config)  # with dropout, and with tied weights
    rows = [{"input_ids": row, "labels": row} for row in torch.randint(0, 16, (4 * BATCHES_PER_EPOCH, 8))]
    settings = {
        "output_dir": str(directory),
        "num_train_epochs": 3,
        "per_device_train_batch_size": 4,
        "save_steps": 3,
        "logging_steps": 1,
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "learning_rate": 0.01,
        **arguments,
    }
    args = transformers.TrainingArguments(**settings)
    return transformers.Trainer(model=model, args=args, train_dataset=rows, callbacks=list(callbacks))


def weights(trainer):
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


@pytest.mark.parametrize(("stopped_at", "saving"), [(8, {}), (5, {"save_strategy": "epoch"})], ids=["steps", "epochs"])
def test_training_that_was_stopped_ends_as_if_it_never_was(tmp_path, stopped_at, saving):
    whole = make_trainer(tmp_path / "whole", save_strategy="no")
    whole.train()

    callback = CkptdCallback(tmp_path / "run", max_to_keep=2)
    assert callback.resume() is None
    with pytest.raises(StopError):
        make_trainer(tmp_path / "out", callback, StopAt(stopped_at), **saving).train()
    ckptd.torch.close_all()

    again = CkptdCallback(tmp_path / "run", max_to_keep=2)
    trainer = make_trainer(tmp_path / "out", again, **saving)
    trainer.train(resume_from_checkpoint=again.resume())
    assert trainer.state.global_step == 3 * BATCHES_PER_EPOCH
    expected, found = weights(whole), weights(trainer)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    losses = [[entry["loss"] for entry in one.state.log_history if "loss" in entry] for one in (whole, trainer)]
    assert losses[0] == losses[1]
    assert list(tmp_path.glob("out/checkpoint-*")) == []  # the trainer wrote none of its own
    assert len(ckptd.get_checkpoint_state(tmp_path / "run").all_model_checkpoint_paths) == 2


def test_what_is_saved_can_be_read_by_anybody(tmp_path):
    callback = CkptdCallback(tmp_path / "run")
    trainer = make_trainer(tmp_path / "out", callback, max_steps=3)
    trainer.train()
    reader = ckptd.load_checkpoint(tmp_path / "run")
    assert np.array_equal(reader["model/transformer.wte.weight"], trainer.model.transformer.wte.weight.detach().numpy())
    model = make_trainer(tmp_path / "other").model
    load(tmp_path / "run", into={"model": model})
    assert torch.equal(model.transformer.wpe.weight, trainer.model.transformer.wpe.weight)


def test_beside_the_trainers_own_checkpoints_a_step_is_saved_once(tmp_path):
    callback = CkptdCallback(tmp_path / "run", alone=False)
    make_trainer(tmp_path / "out", callback, max_steps=3).train()
    assert [path.name for path in tmp_path.glob("out/checkpoint-*")] == ["checkpoint-3"]
    assert ckptd.latest_checkpoint(tmp_path / "run").endswith("model.ckpt-3")


def test_random_generators_go_on_where_they_were(tmp_path):
    def draw():
        return torch.rand(2).tolist(), random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn()

    random.gauss(0, 1)  # leaves a second one for the next call
    np.random.randn()
    ckptd.torch.save({"random": random_state()}, tmp_path / "run", 1).result()
    drawn = draw()
    state = load(tmp_path / "run")["random"]
    assert set_random_state(state)
    assert draw() == drawn
    assert not set_random_state(state, rank=1)
    with pytest.raises(ckptd.InvalidRequestError, match="not the state of random generators"):
        set_random_state({})
