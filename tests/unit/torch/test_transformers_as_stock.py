"""What Hugging Face's trainer keeps and does with its own checkpoints, and with ours, in the same trainings."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import ckptd  # noqa: E402
from ckptd.torch import CkptdCallback, close_all, load  # noqa: E402
from tests.unit.torch.test_transformers import StopAt, StopError  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

STEPS = 12
SETTINGS = {
    "max_steps": STEPS,
    "save_steps": 2,
    "eval_steps": 2,
    "eval_strategy": "steps",
    "logging_steps": 2,
    "use_cpu": True,
    "report_to": [],
    "disable_tqdm": True,
    "learning_rate": 0.3,
    "lr_scheduler_type": "constant",
    "per_device_train_batch_size": 4,
    "metric_for_best_model": "eval_loss",
    "greater_is_better": False,
    "load_best_model_at_end": True,
    "seed": 0,
}


def make(directory, *callbacks, **changes):
    transformers.set_seed(0)
    rows, held_out = (
        torch.randint(0, 8, (number, 4), generator=torch.Generator().manual_seed(seed))
        for number, seed in ((64, 1), (16, 2))
    )
    config = transformers.GPT2Config(vocab_size=8, n_positions=4, n_embd=8, n_layer=1, n_head=1)
    return transformers.Trainer(
        transformers.GPT2LMHeadModel(config),
        transformers.TrainingArguments(str(directory / "out"), **{**SETTINGS, **changes}),
        train_dataset=[{"input_ids": row, "labels": row} for row in rows],
        eval_dataset=[{"input_ids": row, "labels": row} for row in held_out],
        callbacks=list(callbacks),
    )


def steps_of_stock(directory):
    return sorted(int(path.name.partition("-")[2]) for path in (directory / "out").glob("checkpoint-*"))


def steps_of_ours(directory):
    close_all()
    with ckptd.Checkpointer(directory, "run") as run:
        return sorted(one.step for one in run.checkpoints())


def comparable(state):
    content = {name: value for name, value in vars(state).items() if name != "best_model_checkpoint"}
    timed = ("runtime", "per_second", "total_flos", "train_loss")  # the last is of the steps of this call
    content["log_history"] = [
        {name: value for name, value in entry.items() if not any(word in name for word in timed)}
        for entry in content["log_history"]
    ]
    content["stateful_callbacks"] = {
        name: value for name, value in content["stateful_callbacks"].items() if name != "TrainerControl"
    }
    return content


def assert_same(stock, ours):
    expected, found = comparable(stock.state), comparable(ours.state)
    for name, value in expected.items():
        assert found.pop(name) == value, name
    assert found == {}
    expected, found = stock.model.state_dict(), ours.model.state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert ours.evaluate()["eval_loss"] == stock.evaluate()["eval_loss"]


CASES = {
    "the best at the end": {},
    "a limit": {"save_total_limit": 2},
    "a limit of one": {"save_total_limit": 1},
    "a limit without the best": {"save_total_limit": 3, "load_best_model_at_end": False},
    "by epochs": {
        "save_strategy": "epoch",
        "eval_strategy": "epoch",
        "max_steps": -1,
        "num_train_epochs": 3,
        "save_total_limit": 2,
    },
    "a scheduler that follows the metric": {"lr_scheduler_type": "reduce_lr_on_plateau", "save_total_limit": 2},
}


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES.keys())
def test_a_training_ends_as_with_the_trainers_own_checkpoints(tmp_path, changes):
    stock = make(tmp_path / "stock", **changes)
    stock.train()
    ours = make(tmp_path / "ours", CkptdCallback(tmp_path / "ours/run", max_to_keep=None), **changes)
    ours.train()
    assert steps_of_ours(tmp_path / "ours") == steps_of_stock(tmp_path / "stock")
    assert steps_of_stock(tmp_path / "ours") == []
    assert_same(stock, ours)
    if stock.args.load_best_model_at_end:
        assert ours.state.best_model_checkpoint.endswith(f"model.ckpt-{stock.state.best_global_step}")


@pytest.mark.parametrize("stopped_at", [7, 10])
def test_a_training_that_was_stopped_ends_so_too_with_its_callbacks_states(tmp_path, stopped_at):
    changes = {"save_total_limit": 2, "restore_callback_states_from_checkpoint": True}

    def stopping():
        return transformers.EarlyStoppingCallback(early_stopping_patience=3)

    stock = make(tmp_path / "stock", stopping(), **changes)
    stock.train()

    first = CkptdCallback(tmp_path / "ours/run", max_to_keep=None)
    with pytest.raises(StopError):
        make(tmp_path / "ours", first, stopping(), StopAt(stopped_at), **changes).train()
    close_all()
    again = CkptdCallback(tmp_path / "ours/run", max_to_keep=None)
    ours = make(tmp_path / "ours", again, stopping(), **changes)
    ours.train(resume_from_checkpoint=again.resume())
    assert steps_of_ours(tmp_path / "ours") == steps_of_stock(tmp_path / "stock")
    assert_same(stock, ours)


def test_the_best_step_stays_whatever_retention_says(tmp_path):
    ours = make(tmp_path, CkptdCallback(tmp_path / "run", max_to_keep=1))
    ours.train()
    best = ours.state.best_global_step
    assert steps_of_ours(tmp_path) == sorted({best, STEPS})
    assert best != STEPS


def test_a_best_checkpoint_that_is_gone_is_told(tmp_path):
    class Deleting(transformers.TrainerCallback):
        def on_evaluate(self, args, state, control, **kwargs):
            if state.global_step == STEPS:
                with ckptd.Checkpointer(tmp_path, "run", max_to_keep=None) as run:
                    run.settle()
                    for one in run.checkpoints()[:-1]:
                        if one.pinned:
                            run.unpin(one.step)
                        run.delete(one.step)

    ours = make(tmp_path, CkptdCallback(tmp_path / "run", max_to_keep=None), Deleting())
    with pytest.raises(ckptd.NotFoundError, match=r"step 8 was the best one"):
        ours.train()


def test_only_the_model_is_saved_where_that_is_wanted(tmp_path):
    make(tmp_path, CkptdCallback(tmp_path / "run"), save_only_model=True, max_steps=4).train()
    saved = load(tmp_path / "run")
    assert set(saved) == {"model", "trainer", "best_pinned"}
    assert json.loads(saved["trainer"])["global_step"] == 4
    close_all()
    again = CkptdCallback(tmp_path / "run")
    resumed = make(tmp_path, again, save_only_model=True, max_steps=6)
    resumed.train(resume_from_checkpoint=again.resume())
    assert resumed.state.global_step == 6


def test_a_run_that_an_older_version_saved_is_resumed(tmp_path):
    """What it saved has no note of which step was pinned as the best one."""
    make(tmp_path, CkptdCallback(tmp_path / "run", max_to_keep=None), max_steps=4).train()
    saved = load(tmp_path / "run", 4)
    del saved["best_pinned"]
    close_all()
    ckptd.torch.save(saved, tmp_path / "run", 4, overwrite=True).result()
    close_all()
    again = CkptdCallback(tmp_path / "run", max_to_keep=None)
    resumed = make(tmp_path, again, max_steps=6)
    resumed.train(resume_from_checkpoint=again.resume())
    assert resumed.state.global_step == 6
    assert steps_of_ours(tmp_path) == [2, 4, 6]
