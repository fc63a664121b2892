"""A PEFT model in Hugging Face's trainer: what is kept of it, beside what stock keeps, and how it is resumed."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
safetensors_torch = pytest.importorskip("safetensors.torch")

import ckptd  # noqa: E402
from ckptd.torch import CkptdCallback, close_all, load  # noqa: E402
from tests.unit.torch.test_transformers import StopAt, StopError  # noqa: E402
from tests.unit.torch.test_transformers_as_stock import assert_same, make, steps_of_ours, steps_of_stock  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

LIMIT = {"save_total_limit": 2}


def make_lora(directory, *callbacks, **changes):
    plain = make(directory, **changes)
    config = peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, lora_dropout=0.1)
    model = peft.get_peft_model(plain.model, config)
    datasets = {"train_dataset": plain.train_dataset, "eval_dataset": plain.eval_dataset}
    return transformers.Trainer(model, plain.args, callbacks=list(callbacks), **datasets)


def test_only_adapters_are_kept_and_the_best_are_there_at_the_end(tmp_path):
    stock = make_lora(tmp_path / "stock", **LIMIT)
    stock.train()
    ours = make_lora(tmp_path / "ours", CkptdCallback(tmp_path / "ours/run", max_to_keep=None), **LIMIT)
    ours.train()
    assert_same(stock, ours)
    steps = steps_of_stock(tmp_path / "stock")
    assert steps_of_ours(tmp_path / "ours") == steps
    for step in steps:
        expected = safetensors_torch.load_file(tmp_path / f"stock/out/checkpoint-{step}/adapter_model.safetensors")
        found = load(tmp_path / "ours/run", step)["model"]["default"]
        assert expected.keys() == found.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("adapters_only", [True, False])
def test_a_training_that_was_stopped_goes_on_with_them(tmp_path, adapters_only):
    stock = make_lora(tmp_path / "stock", **LIMIT)
    stock.train()
    first = CkptdCallback(tmp_path / "ours/run", max_to_keep=None, adapters_only=adapters_only)
    with pytest.raises(StopError):
        make_lora(tmp_path / "ours", first, StopAt(7), **LIMIT).train()
    close_all()
    stored = load(tmp_path / "ours/run", 6)["model"]
    assert (set(stored) == {"default"}) == adapters_only
    again = CkptdCallback(tmp_path / "ours/run", max_to_keep=None)  # takes either
    ours = make_lora(tmp_path / "ours", again, **LIMIT)
    ours.train(resume_from_checkpoint=again.resume())
    assert_same(stock, ours)


def test_other_adapters_are_refused(tmp_path):
    make_lora(tmp_path, CkptdCallback(tmp_path / "run"), max_steps=2).train()
    close_all()
    own = CkptdCallback(tmp_path / "run")
    with pytest.raises(ckptd.InvalidRequestError, match=r"call attach\(trainer\) before resume"):
        own.resume()
    trainer = make_lora(tmp_path, own, max_steps=4)
    trainer.model.add_adapter("second", trainer.model.peft_config["default"])
    with pytest.raises(ckptd.InvalidRequestError, match="second"):
        trainer.train(resume_from_checkpoint=own.resume())
