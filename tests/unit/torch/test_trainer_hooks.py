"""Where the callback plugs into Hugging Face's trainer: events, strategies and options, each beside stock."""

from __future__ import annotations

import logging
import sys
import types

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import ckptd  # noqa: E402
from ckptd.torch import CkptdCallback, close_all, load  # noqa: E402
from tests.unit.torch.test_transformers import StopAt, StopError  # noqa: E402
from tests.unit.torch.test_transformers_as_stock import (  # noqa: E402
    assert_same,
    make,
    steps_of_ours,
    steps_of_stock,
)

pytestmark = pytest.mark.filterwarnings("ignore")


class Told(transformers.TrainerCallback):
    """Notes of what it is told, and at which step; raises where it is asked to."""

    def __init__(self, raises_at=None):
        self.events = []
        self._raises_at = raises_at

    def __getattribute__(self, name):
        if not name.startswith("on_"):
            return super().__getattribute__(name)

        def told(args, state, control, **kwargs):
            self.events.append((name, state.global_step))
            if (name, state.global_step) == self._raises_at:
                raise StopError

        return told


def make_ours(tmp_path, *callbacks, keep=None, **changes):
    own = CkptdCallback(tmp_path / "ours/run", max_to_keep=keep)
    return own, make(tmp_path / "ours", own, *callbacks, **changes)


def both(tmp_path, **changes):
    stock = make(tmp_path / "stock", **changes)
    stock.train()
    _, ours = make_ours(tmp_path, **changes)  # only now, as this seeds the random generators
    ours.train()
    return stock, ours


def both_resumed(tmp_path, step, change=lambda trainer: None, **changes):
    """Train both to the end, and then others from one of the checkpoints."""
    both(tmp_path, **changes)
    stock = make(tmp_path / "stock", **changes)
    change(stock)
    stock.train(resume_from_checkpoint=str(tmp_path / f"stock/out/checkpoint-{step}"))
    close_all()
    own, ours = make_ours(tmp_path, **changes)
    change(ours)
    ours.train(resume_from_checkpoint=own.resume(step))
    return stock, ours


def test_other_callbacks_are_told_as_ever(tmp_path):
    stock, ours = Told(), Told()
    make(tmp_path / "stock", stock).train()
    make_ours(tmp_path, ours)[1].train()
    assert ours.events == stock.events
    assert ("on_save", 4) in ours.events


def test_a_save_that_comes_with_an_evaluation_has_begun_when_the_trainer_says_so(tmp_path):
    """It is neither lost nor late when the next thing ends the program."""
    with pytest.raises(StopError):
        make_ours(tmp_path, Told(raises_at=("on_save", 4)))[1].train()
    assert steps_of_ours(tmp_path / "ours") == [2, 4]


CASES = {
    "the best ones only": {"save_strategy": "best"},
    "the best ones only, and a limit": {"save_strategy": "best", "save_total_limit": 1},
    "the best step is not saved": {"save_steps": 6, "save_total_limit": 2},
    "on each node": {"save_on_each_node": True, "save_total_limit": 2},
}


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES.keys())
def test_a_training_ends_as_with_the_trainers_own_checkpoints(tmp_path, changes):
    stock, ours = both(tmp_path, **changes)
    assert steps_of_ours(tmp_path / "ours") == steps_of_stock(tmp_path / "stock")
    assert steps_of_stock(tmp_path / "ours") == []
    assert_same(stock, ours)


@pytest.mark.parametrize("changes", [{}, {"ignore_data_skip": True}], ids=["as ever", "seen data again"])
def test_resumed_within_an_epoch_or_from_an_older_step_it_goes_on_as_stock(tmp_path, changes):
    stock, ours = both_resumed(tmp_path, 4, lr_scheduler_type="linear", save_steps=4, eval_steps=4, **changes)
    assert steps_of_ours(tmp_path / "ours") == steps_of_stock(tmp_path / "stock")
    assert_same(stock, ours)


def test_a_limit_counts_by_when_it_was_saved_after_going_back(tmp_path):
    """What was saved last stays, and not the abandoned steps that are higher."""
    _, first = make_ours(tmp_path, load_best_model_at_end=False)
    first.train()
    close_all()
    own, again = make_ours(tmp_path, StopAt(7), load_best_model_at_end=False, metric_for_best_model=None,
                           save_total_limit=1)  # fmt: skip
    with pytest.raises(StopError):
        again.train(resume_from_checkpoint=own.resume(4))
    own.wait()
    assert 6 in steps_of_ours(tmp_path / "ours")


def test_a_batch_that_is_too_large_after_resuming_is_tried_smaller_from_the_same_step(tmp_path):
    def runs_out_of_memory_once(trainer):
        step, failures = trainer.training_step, iter([RuntimeError("CUDA out of memory.")])

        def training_step(*args, **kwargs):
            for failure in failures:
                raise failure
            return step(*args, **kwargs)

        trainer.training_step = training_step

    changes = {"auto_find_batch_size": True, "lr_scheduler_type": "linear"}
    stock, ours = both_resumed(tmp_path, 4, runs_out_of_memory_once, **changes)
    assert ours._train_batch_size == stock._train_batch_size < 4
    assert_same(stock, ours)


def test_what_resume_has_found_and_train_was_not_given_is_not_loaded(tmp_path, caplog):
    _, whole = make_ours(tmp_path)
    whole.train()
    close_all()
    own, ours = make_ours(tmp_path)
    assert own.resume(4)
    with caplog.at_level(logging.WARNING, "ckptd.torch"):
        ours.train()
    assert "resume() found step 4" in caplog.text
    assert_same(whole, ours)


def test_pins_that_a_killed_program_left_are_put_right(tmp_path):
    with pytest.raises(StopError):
        make_ours(tmp_path, StopAt(9))[1].train()
    close_all()
    best = 8
    with ckptd.Checkpointer(tmp_path / "ours", "run", max_to_keep=None) as run:
        run.unpin(best)
        run.pin(load(run)["best_pinned"])  # as it was when the last save began
    own, ours = make_ours(tmp_path)
    ours.train(resume_from_checkpoint=own.resume())
    close_all()
    with ckptd.Checkpointer(tmp_path / "ours", "run", max_to_keep=None) as run:
        assert [one.step for one in run.checkpoints() if one.pinned] == [ours.state.best_global_step]


def test_another_dtype_is_converted_as_stock_does(tmp_path):
    stock, ours = both_resumed(tmp_path, 8, lambda trainer: trainer.model.to(torch.float64), save_only_model=True)
    assert ours.model.lm_head.weight.dtype == torch.float64
    assert_same(stock, ours)


def test_another_shape_is_refused_by_name(tmp_path):
    make_ours(tmp_path)[1].train()
    close_all()
    own, ours = make_ours(tmp_path)
    ours.model.resize_token_embeddings(11)
    with pytest.raises(ckptd.InvalidRequestError, match=r"does not fit the model: model/transformer.wte.weight"):
        ours.train(resume_from_checkpoint=own.resume())


def test_each_trial_of_a_search_has_a_run_of_its_own(tmp_path):
    """With a trial as Optuna's backend hands it over."""

    class Trial:
        def __init__(self, number):
            self.number, self.params = number, {"learning_rate": 0.1 * (number + 1)}

    def search(directory, *callbacks):
        trainer = make(directory, *callbacks, save_steps=6, eval_steps=6)
        trainer.hp_search_backend = transformers.trainer_utils.HPSearchBackend.OPTUNA
        trainer.hp_space = lambda trial: trial.params
        trainer.compute_objective = lambda metrics: metrics["eval_loss"]
        for number in range(2):
            trainer.model_init = lambda: make(directory).model
            trainer.train(trial=Trial(number))
        return trainer

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("transformers.integrations.hp_params", lambda trial: trial.params)
        patched.setitem(sys.modules, "optuna", types.ModuleType("optuna"))  # is imported, and not asked for anything
        stock = search(tmp_path / "stock")
        ours = search(tmp_path / "ours", CkptdCallback(tmp_path / "ours/runs", max_to_keep=None))
        assert_same(stock, ours)
        for number in range(2):
            directories = (tmp_path / f"stock/out/run-{number}").glob("checkpoint-*")
            with ckptd.Checkpointer(tmp_path / "ours/runs", f"run-{number}") as run:
                assert {f"checkpoint-{one.step}" for one in run.checkpoints()} == {one.name for one in directories}
            expected = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / f"stock/out/run-{number}/checkpoint-6")
            found = load(tmp_path / f"ours/runs/run-{number}", 6)["model"]
            assert all(torch.equal(found[name], value) for name, value in expected.state_dict().items())
        with (
            ckptd.Checkpointer(tmp_path, "given") as given,
            pytest.raises(ckptd.InvalidRequestError, match="a run of its own: give CkptdCallback a path"),
        ):
            search(tmp_path / "given", CkptdCallback(given))


def test_pushing_during_training_is_said_to_be_left_out(tmp_path, caplog):
    trainer = make(tmp_path)
    trainer.args.push_to_hub = True
    with caplog.at_level(logging.WARNING, "ckptd.torch"):
        CkptdCallback(tmp_path / "run").attach(trainer)
    assert "trainer.push_to_hub() uploads the model at the end" in caplog.text
    caplog.clear()
    CkptdCallback(tmp_path / "other", alone=False).attach(make(tmp_path))
    assert caplog.text == ""


def test_a_class_that_saves_in_its_own_way_is_told_of(tmp_path, caplog):
    class Own(transformers.Trainer):
        def _save_checkpoint(self, *args, **kwargs):
            super()._save_checkpoint(*args, **kwargs)

    with caplog.at_level(logging.WARNING, "ckptd.torch"):
        Own(make(tmp_path).model, callbacks=[CkptdCallback(tmp_path / "run")])
    assert "Own._save_checkpoint is not called" in caplog.text


@pytest.mark.parametrize("is_attached", [True, False])
def test_a_callback_that_was_added_later_resumes_too(tmp_path, is_attached):
    make_ours(tmp_path)[1].train()
    close_all()
    trainer, own = make(tmp_path / "ours"), CkptdCallback(tmp_path / "ours/run", max_to_keep=None)
    if is_attached:
        own.attach(trainer)
        own.attach(trainer)  # may be repeated
    else:
        trainer.add_callback(own)
    trainer.train(resume_from_checkpoint=own.resume(4))
    stock, _ = both_resumed(tmp_path / "other", 4)
    assert_same(stock, trainer)
    assert steps_of_stock(tmp_path / "ours") == []


def test_a_trainer_that_lost_the_callback_saves_itself_again(tmp_path):
    own, trainer = make_ours(tmp_path, max_steps=2)
    trainer.remove_callback(own)
    trainer.train()
    assert steps_of_stock(tmp_path / "ours") == [2]
    CkptdCallback(tmp_path / "other").attach(trainer)  # and may be given another one


def test_two_callbacks_are_refused(tmp_path):
    with pytest.raises(ckptd.InvalidRequestError, match="two CkptdCallbacks"):
        make_ours(tmp_path, CkptdCallback(tmp_path / "other"))


def test_other_trainers_and_loops_are_refused_in_words(tmp_path):
    own = CkptdCallback(tmp_path / "run")
    with pytest.raises(ckptd.InvalidRequestError, match=r"(?s)for transformers.Trainer.*builtins.dict"):
        own.attach({})
    trainer = make(tmp_path)
    with pytest.raises(ckptd.InvalidRequestError, match=r"call callback.attach\(trainer\) before"):
        own.on_train_begin(trainer.args, trainer.state, trainer.control)
    trainer.is_fsdp_enabled = True
    with pytest.raises(ckptd.InvalidRequestError, match="does not save FSDP"):
        own.attach(trainer)


@pytest.mark.parametrize("step", ["4", True, 4.0])
def test_a_step_that_is_none_is_refused(tmp_path, step):
    with pytest.raises(ckptd.InvalidRequestError, match="a step is a whole number"):
        CkptdCallback(tmp_path / "run").resume(step)


def test_a_run_of_something_else_is_refused(tmp_path):
    ckptd.torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "run", 1).result()
    with pytest.raises(ckptd.InvalidRequestError, match=r"model.ckpt-1 was not saved by CkptdCallback"):
        CkptdCallback(tmp_path / "run").resume()
