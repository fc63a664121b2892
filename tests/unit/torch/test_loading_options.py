"""What a load is asked for beside the state: to let differences be, to convert, to rename, to make tensors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import ckptd
from ckptd.torch.arrays import numpy_dtype_of
from ckptd.torch.casting import converted, needed_cast
from ckptd.torch.loading import load
from ckptd.torch.places import close_all
from ckptd.torch.saving import save


class Net(torch.nn.Module):
    def __init__(self, classes=4, head=False, scaled=True):
        super().__init__()
        self.body = torch.nn.Linear(4, 4)
        self.cls = torch.nn.Linear(4, classes)
        if scaled:
            self.register_buffer("scale", torch.ones(2))
        if head:
            self.head = torch.nn.Linear(4, 3)

    def forward(self, x):
        return self.cls(self.body(x))


@pytest.fixture
def trained(tmp_path):
    """A model and its optimizer after a step, and where they are stored."""
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    save({"model": model, "optimizer": optimizer, "epoch": 3}, tmp_path / "run", 1).result()
    close_all()
    return model, optimizer, tmp_path / "run"


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_without_strict_what_fits_is_loaded_and_the_rest_is_listed_as_torch_lists_it(trained):
    model, _, place = trained
    mine, stock = Net(head=True, scaled=False), Net(head=True, scaled=False)
    head = mine.head.weight.detach().clone()
    result = load(place, into={"model": mine}, strict=False)
    names = stock.load_state_dict(model.state_dict(), strict=False)
    assert result.missing_keys == [f"model/{name}" for name in names.missing_keys]
    assert result.unexpected_keys == [f"model/{name}" for name in names.unexpected_keys] == ["model/scale"]
    assert result.mismatched_keys == []
    assert result.state["model"] is mine
    assert torch.equal(mine.body.weight, stock.body.weight)
    assert torch.equal(mine.head.weight, head)


def test_another_shape_is_listed_and_left_as_it_was(trained):
    model, _, place = trained
    mine = Net(classes=7)
    before = mine.cls.weight.detach().clone()
    result = load(place, into={"model": mine}, strict=False)
    assert [one.key for one in result.mismatched_keys] == ["model/cls.weight", "model/cls.bias"]
    assert result.mismatched_keys[0][1:] == ("float32 [4, 4]", "float32 [7, 4]")
    assert torch.equal(mine.cls.weight, before)
    assert torch.equal(mine.body.weight, model.body.weight)


def test_a_strict_error_names_all_three_lists_and_the_way_out(trained):
    _, _, place = trained
    with pytest.raises(ckptd.InvalidRequestError) as caught:
        load(place, into={"model": Net(classes=7, head=True, scaled=False)})
    told = str(caught.value)
    assert "model/head.weight is not stored; did you mean" in told
    assert "model/scale is stored, and has no place here" in told
    assert "model/cls.weight is stored as float32 [4, 4], and here it is float32 [7, 4]" in told
    assert "strict=False" in told


def test_long_lists_are_cut_each_for_itself(tmp_path):
    save({"m": {"one": torch.ones(1)}}, tmp_path / "run", 1).result()
    with pytest.raises(ckptd.InvalidRequestError, match="and 20 more such; m/one is stored, and has no place here"):
        load(tmp_path / "run", into={"m": {f"w{n}": torch.ones(1) for n in range(30)}})


def test_a_load_that_would_load_nothing_is_refused_without_strict_too(trained):
    _, _, place = trained
    with pytest.raises(ckptd.InvalidRequestError, match="no part of the state to load.*net/body.weight is not"):
        load(place, into={"net": Net()}, strict=False)


def test_lists_of_another_length_and_values_that_are_not_stored_stay_as_they_are(tmp_path):
    save({"m": {"two": [torch.ones(1), torch.ones(1)], "w": torch.ones(2)}}, tmp_path / "run", 1).result()
    mine = {"m": {"two": [torch.zeros(1)], "w": torch.zeros(2), "lr": 0.5}}
    result = load(tmp_path / "run", into=mine, strict=False)
    assert result.missing_keys == ["m/lr"]
    assert [str(one) for one in result.mismatched_keys] == ["m/two is stored as 2 parts, and here it is 1"]
    assert mine["m"]["lr"] == 0.5
    assert mine["m"]["w"].sum() == 2


def test_without_an_outline_the_lists_are_made_of_names(tmp_path):
    stored = {"net/body.weight": np.ones((4, 4), np.float32), "net/old": np.ones(2, np.float32), "other": np.ones(1)}
    ckptd.save_checkpoint(tmp_path / "model.ckpt", stored)
    model = Net()
    result = load(tmp_path / "model.ckpt", into={"net": model}, strict=False)
    assert result.unexpected_keys == ["net/old"]
    assert "net/cls.weight" in result.missing_keys
    assert torch.equal(model.body.weight, torch.ones(4, 4))


def test_an_optimizer_of_other_groups_is_told_before_anything_is_changed(trained):
    _, _, place = trained
    model = Net(head=True)
    before = model.body.weight.detach().clone()
    into = {"model": model, "optimizer": torch.optim.AdamW(model.parameters())}
    with pytest.raises(ckptd.InvalidRequestError, match=r"optimizer/param_groups is stored as groups of \[4\]"):
        load(place, into=into)
    assert torch.equal(model.body.weight, before)
    result = load(place, into=into, strict=False)
    assert [one.key for one in result.mismatched_keys] == ["optimizer/param_groups"]
    assert not into["optimizer"].state


def test_moments_of_another_shape_are_left_out_so_that_the_next_step_works(trained):
    model, optimizer, place = trained
    mine = Net(classes=7)
    fresh = torch.optim.AdamW(mine.parameters())
    result = load(place, into={"model": mine, "optimizer": fresh}, strict=False)
    assert "optimizer/state/2/exp_avg" in [one.key for one in result.mismatched_keys]
    body = optimizer.state[model.body.weight]["exp_avg"]
    assert torch.equal(fresh.state[mine.body.weight]["exp_avg"], body)
    mine(torch.ones(1, 4)).sum().backward()
    fresh.step()


def test_dtypes_are_converted_only_as_far_as_it_is_asked(trained):
    model, _, place = trained
    wide, narrow = Net().double(), Net().bfloat16()
    with pytest.raises(ckptd.InvalidRequestError, match=r"here it is float64 \[4, 4\]; cast='widen' converts it"):
        load(place, into={"model": wide})
    with pytest.raises(ckptd.InvalidRequestError, match=r"here it is bfloat16 \[4, 4\]; cast='any' converts it"):
        load(place, into={"model": narrow}, cast="widen")
    with pytest.raises(ckptd.InvalidRequestError, match="cast='any'"):
        load(place, into={"model": narrow}, strict=False)
    load(place, into={"model": wide}, cast="widen")
    load(place, into={"model": narrow}, cast="any")
    stock = Net().bfloat16()
    stock.load_state_dict(model.state_dict())
    assert equal(narrow.state_dict(), stock.state_dict())
    assert torch.equal(wide.body.weight, model.body.weight.double())


def test_an_optimizer_does_not_narrow_its_moments_without_being_asked(trained):
    _, _, place = trained
    optimizer = torch.optim.AdamW(Net().bfloat16().parameters())
    with pytest.raises(
        ckptd.InvalidRequestError, match="exp_avg is stored as float32, and the optimizer converts it to"
    ):
        load(place, into={"optimizer": optimizer})
    load(place, into={"optimizer": optimizer}, cast="any")
    assert {one["exp_avg"].dtype for one in optimizer.state.values()} == {torch.bfloat16}


def test_a_conversion_that_would_ruin_a_value_is_refused_and_nothing_is_changed(tmp_path):
    save({"w": torch.ones(2), "x": torch.tensor([1.0, 1e30]), "n": torch.tensor([300])}, tmp_path / "run", 1).result()
    into = {"w": torch.zeros(2), "x": torch.zeros(2, dtype=torch.float16)}
    with pytest.raises(ckptd.InvalidRequestError, match="'x' can't become float16: it holds 1.0.*e\\+30"):
        load(tmp_path / "run", into=into, cast="any")
    assert into["w"].sum() == 0
    with pytest.raises(ckptd.InvalidRequestError, match="'n' can't become int8: it holds 300"):
        load(tmp_path / "run", into={"n": np.zeros(1, np.int8)}, cast="any")
    small = load(tmp_path / "run", into={"n": np.zeros(1, np.int16)}, cast="any")
    assert small["n"].tolist() == [300]


INTEGERS = [torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.int32, torch.uint64, torch.int64]
FLOATS = [torch.float8_e5m2, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]


@pytest.mark.parametrize("before", INTEGERS)
def test_an_integer_stays_what_it_is_or_is_refused_in_every_dtype(before):
    limits = torch.iinfo(before)
    mine = numpy_dtype_of("x", before)
    for after, value in itertools.product(
        INTEGERS + FLOATS, (0, limits.min, limits.max, limits.max - 1, limits.max // 2 + 1)
    ):
        dtype = numpy_dtype_of("x", after)
        with np.errstate(over="ignore"):
            exact = np.array(value, object) == _as_python(np.array([value], mine).astype(dtype))
        if after in INTEGERS:
            exact = torch.iinfo(after).min <= value <= torch.iinfo(after).max
        if exact:
            assert _as_python(converted("x", np.array([value], mine), dtype)) == value
        else:
            with pytest.raises(ckptd.InvalidRequestError, match=f"it holds {value}, which that dtype can't hold"):
                converted("x", np.array([value], mine), dtype)


def _as_python(array):
    if array.dtype.kind in "iu":
        return array.item()
    value = array.astype(np.complex128).item().real
    return int(value) if np.isfinite(value) else value


def test_each_part_of_a_complex_number_stays_finite():
    with pytest.raises(ckptd.InvalidRequestError, match="that dtype can't hold"):
        converted("x", np.array([complex(1e300, np.inf)]), np.dtype(np.complex64))


def test_what_can_never_be_converted_says_no_way(tmp_path):
    save({"x": torch.ones(2), "c": torch.ones(1, dtype=torch.complex64)}, tmp_path / "run", 1).result()
    for into in ({"x": torch.zeros(2, dtype=torch.int64)}, {"c": torch.zeros(1)}):
        with pytest.raises(ckptd.InvalidRequestError) as caught:
            load(tmp_path / "run", into=into, cast="any")
        assert "converts it" not in str(caught.value)
    with pytest.raises(ckptd.InvalidRequestError, match="cast is None, 'widen' or 'any'"):
        load(tmp_path / "run", into={"x": torch.zeros(2)}, cast=True)


FLOATS = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e5m2,
    torch.float8_e4m3fn,
    torch.float8_e5m2fnuz,
    torch.float8_e4m3fnuz,
]


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(FLOATS, 2)))
def test_converted_values_are_those_of_torch_and_widening_keeps_them_all(before, after):
    tensor = torch.cat([torch.tensor([0.0, -0.0, 0.75, -1.25, 3.0, 0.0029296875]), torch.rand(50)]).to(before)
    array = converted("x", ckptd.torch.array_of("x", tensor), numpy_dtype_of("x", after))
    stock = tensor.to(after)
    assert torch.equal(ckptd.torch.tensor_of(array).double(), stock.double())
    if needed_cast(numpy_dtype_of("x", before), numpy_dtype_of("x", after)) == "widen":
        every = torch.arange(256, dtype=torch.uint8).view(before) if before.itemsize == 1 else tensor
        assert torch.equal(every.to(after).double().nan_to_num(3, 4, 5), every.double().nan_to_num(3, 4, 5))


def test_wrappers_beginnings_are_taken_off_at_any_depth(tmp_path):
    model = Net()
    wrapped = {f"module._orig_mod.{name}": one for name, one in model.state_dict().items()}
    save({"nets": [wrapped], "model": wrapped, "epoch": 1}, tmp_path / "run", 1).result()
    rename = {"module.": "", "_orig_mod.": ""}
    mine = Net()
    load(tmp_path / "run", into={"model": mine}, rename=rename)
    assert equal(mine.state_dict(), model.state_dict())
    everything = load(tmp_path / "run", rename=list(rename.items()))
    assert equal(everything["nets"][0], model.state_dict())
    assert everything["epoch"] == 1
    with pytest.raises(ckptd.InvalidRequestError, match="rename={'module.': ''} removes that prefix"):
        load(tmp_path / "run", into={"model": torch.nn.Sequential(Net())}, rename={"module._orig_mod.": "module.0."})


def test_a_function_moves_whole_parts_and_numbers_stay_numbers(trained):
    model, optimizer, place = trained
    mine = Net()
    fresh = torch.optim.AdamW(mine.parameters())

    def moved(name):
        return name.replace("model/", "net/inner/").replace("optimizer/", "opt/")

    state = load(place, into={"net": {"inner": mine}, "opt": fresh, "epoch": 0}, rename=moved)
    assert state["epoch"] == 3
    assert equal(mine.state_dict(), model.state_dict())
    assert torch.equal(fresh.state[mine.cls.bias]["exp_avg"], optimizer.state[model.cls.bias]["exp_avg"])
    assert list(load(place, rename=moved)["opt"]["state"]) == [0, 1, 2, 3]


def test_names_without_an_outline_are_renamed_too(tmp_path):
    stored = {"bert/a": np.ones(2, np.float32), "bert/b": np.zeros(3, np.float32)}
    ckptd.save_checkpoint(tmp_path / "model.ckpt", stored)
    into = {"encoder": {"a": torch.zeros(2), "b": torch.ones(3)}}
    load(tmp_path / "model.ckpt", into=into, rename={"bert/": "encoder/"})
    assert into["encoder"]["a"].sum() == 2
    assert set(load(tmp_path / "model.ckpt", rename=str.upper)) == {"BERT/A", "BERT/B"}


@pytest.mark.parametrize(
    ("rename", "told"),
    [
        (lambda name: "same", "would both be called 'same'"),
        ({"a": "b"}, "would both be called 'm/b'"),
        ({"": "x."}, "every key begins with an empty text"),
        (lambda name: None, "needs a new name that is a text"),
        ("module.", "rename is a dict of prefixes"),
        ([("module.",)], "rename is a dict of prefixes"),
        (3, "rename is a dict of prefixes"),
        (lambda name: name.replace("l/", "x"), "is in a list and can't leave it"),
    ],
)
def test_what_can_not_be_renamed_so_is_refused(tmp_path, rename, told):
    save({"m": {"a": torch.ones(1), "b": torch.ones(1)}, "l": [{"c": torch.ones(1)}]}, tmp_path / "run", 1).result()
    with pytest.raises(ckptd.InvalidRequestError, match=told):
        load(tmp_path / "run", rename=rename)


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(5, 3)
        self.out = torch.nn.Linear(3, 5, bias=False)
        self.out.weight = self.embed.weight
        self.norm = torch.nn.BatchNorm1d(3)
        self.norm.weight.requires_grad_(False)


def test_a_model_on_the_meta_device_gets_tensors_and_tied_ones_stay_tied(tmp_path):
    model = Tied()
    save({"model": model}, tmp_path / "run", 1).result()
    with torch.device("meta"):
        mine = Tied()
    load(tmp_path / "run", into={"model": mine})
    assert equal(mine.state_dict(), model.state_dict())
    assert mine.out.weight is mine.embed.weight
    assert isinstance(mine.out.weight, torch.nn.Parameter)
    assert mine.norm.running_mean.device.type == "cpu"
    assert [one.requires_grad for one in mine.parameters()] == [one.requires_grad for one in model.parameters()]


def test_only_what_is_on_the_meta_device_is_replaced(tmp_path):
    save({"model": Net(), "w": torch.ones(2)}, tmp_path / "run", 1).result()
    mine = Net(head=True)
    mine.cls.to("meta")
    body = mine.body.weight
    into = {"model": mine, "w": torch.empty(2, device="meta")}
    result = load(tmp_path / "run", into=into, strict=False)
    assert mine.body.weight is body
    assert mine.cls.weight.device.type == "cpu"
    assert result.missing_keys == ["model/head.weight", "model/head.bias"]
    assert into["w"].sum() == 2
    with torch.device("meta"):
        other = Net(head=True)
    assert load(tmp_path / "run", into={"model": other}, strict=False).missing_keys == result.missing_keys
    assert other.head.weight.is_meta


def test_a_checkpointer_and_a_prefix_take_the_same_options(trained):
    model, _, place = trained
    with ckptd.Checkpointer(place.parent, place.name, rank=0, world_size=1) as checkpointer:
        for where in (checkpointer, place / "model.ckpt-1"):
            mine = Net(head=True).double()
            result = load(where, into={"net": mine}, strict=False, cast="widen", rename={"model/": "net/"})
            assert result.missing_keys == ["net/head.weight", "net/head.bias"]
            assert torch.equal(mine.body.weight, model.body.weight.double())
