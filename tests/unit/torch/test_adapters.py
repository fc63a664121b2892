"""PEFT's adapters alone: the tensors that PEFT's own files have, and a model that goes on as the saved one."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")

import ckptd  # noqa: E402
from ckptd.torch import Adapters, load, save  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


def make_model(seed, *names, **options):
    torch.manual_seed(0)  # the same base
    config = transformers.GPT2Config(vocab_size=64, n_positions=4, n_embd=32, n_layer=1, n_head=2)
    base = transformers.GPT2LMHeadModel(config)
    torch.manual_seed(seed)
    options = {"r": 2, "target_modules": ["c_attn"], "fan_in_fan_out": True, "init_lora_weights": False, **options}
    model = peft.get_peft_model(base, peft.LoraConfig(**options))
    for name in names:
        model.add_adapter(name, peft.LoraConfig(**options))
    return model


def total_bytes(tensors):
    return sum(tensor.nbytes for tensor in tensors)


@pytest.mark.parametrize("options", [{}, {"modules_to_save": ["lm_head"]}], ids=["lora", "with a whole module"])
def test_what_is_stored_is_what_peft_stores_and_comes_back(tmp_path, options):
    model = make_model(1, "second", **options)
    model.save_pretrained(tmp_path / "stock")
    save({"model": Adapters(model)}, tmp_path / "run", 1).result()
    stored = load(tmp_path / "run")["model"]
    for name, directory in {"default": tmp_path / "stock", "second": tmp_path / "stock" / "second"}.items():
        stock = safetensors_torch.load_file(directory / "adapter_model.safetensors")
        assert stock.keys() == stored[name].keys()
        assert all(torch.equal(stock[key], stored[name][key]) for key in stock)

    other = make_model(2, "second", **options)
    expected, before = model.state_dict(), other.state_dict()
    assert any(not torch.equal(expected[key], before[key]) for key in expected)
    load(tmp_path / "run", into={"model": Adapters(other)})
    found = other.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_the_base_is_not_stored(tmp_path):
    model = make_model(1)
    save({"model": Adapters(model)}, tmp_path / "run", 1).result()
    stored = load(tmp_path / "run")["model"]["default"]
    assert all("lora_" in name for name in stored)
    assert total_bytes(stored.values()) == total_bytes(one for one in model.parameters() if one.requires_grad)


@pytest.mark.parametrize(("saved", "here"), [((), ("second",)), (("second",), ())], ids=["one more", "one less"])
def test_a_model_with_other_adapters_is_refused_and_not_changed(tmp_path, saved, here):
    save({"model": Adapters(make_model(1, *saved))}, tmp_path / "run", 1).result()
    other = make_model(2, *here)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(ckptd.InvalidRequestError, match="second"):
        load(tmp_path / "run", into={"model": Adapters(other)})
    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())


def test_a_model_without_adapters_is_refused():
    with pytest.raises(ckptd.InvalidRequestError, match="PeftModel"):
        Adapters(torch.nn.Linear(2, 2))


def test_adapters_on_the_meta_device_get_tensors(tmp_path):
    model = make_model(1)
    save({"model": Adapters(model)}, tmp_path / "run", 1).result()
    other = make_model(2)
    for layer in other.modules():
        if type(layer).__name__ == "Linear" and hasattr(layer, "lora_A"):
            layer.lora_A.to("meta")
            layer.lora_B.to("meta")
    assert any(one.is_meta for one in other.parameters())
    load(tmp_path / "run", into={"model": Adapters(other)})
    expected, found = model.state_dict(), other.state_dict()
    assert all(torch.equal(expected[key], found[key]) for key in expected if "lora_" in key)
    assert all(one.requires_grad for name, one in other.named_parameters() if "lora_" in name)
