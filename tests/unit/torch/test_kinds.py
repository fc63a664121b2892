"""Values of Python and of torch that are no tensors: saved with a real checkpoint, and loaded as they were."""

from __future__ import annotations

import enum
from collections import Counter, OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ckptd import load_checkpoint  # noqa: E402
from ckptd.errors import InvalidRequestError  # noqa: E402
from ckptd.torch import close_all, load, save  # noqa: E402
from ckptd.torch.saving import named_parts  # noqa: E402
from ckptd.trees.flatten import read_outline, rebuild  # noqa: E402
from ckptd.trees.merging import merged_outline  # noqa: E402


class Schedule(str, enum.Enum):
    COSINE = "cosine"


@dataclass
class Config:
    rate: float
    weights: torch.Tensor


@pytest.fixture
def run(tmp_path):
    yield tmp_path / "run"
    close_all()


def test_what_torch_keeps_beside_tensors_comes_back(run):
    state = {
        "dtype": torch.bfloat16,
        "dtypes": [torch.float32, None],
        "device": torch.device("cuda", 1),
        "size": torch.Size([2, 3]),
        "layout": torch.strided,
        "format": torch.channels_last,
        "version": torch.__version__,
        "where": Path("/data"),
    }
    save(state, run, 1).result()
    found = load(run)
    assert found == state
    assert [type(value) for value in found.values()] == [type(value) for value in state.values()]


def test_a_scheduler_with_a_counter_goes_on_as_it_would_have(run):
    def new():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        return optimizer, torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[2, 2, 4])

    optimizer, scheduler = new()
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    save({"scheduler": scheduler, "optimizer": optimizer}, run, 1).result()
    assert type(load(run)["scheduler"]["milestones"]) is Counter
    other, resumed = new()
    load(run, into={"scheduler": resumed, "optimizer": other})
    for _ in range(3):
        for each in (optimizer, scheduler, other, resumed):
            each.step()
        assert scheduler.get_last_lr() == resumed.get_last_lr()


def test_a_module_alone_is_an_ordered_dict_that_a_module_takes(run):
    module = torch.nn.Linear(2, 2)
    save({"module": module}, run, 1).result()
    found = load(run)["module"]
    assert type(found) is OrderedDict
    torch.nn.Linear(2, 2).load_state_dict(found)
    renamed = load(run, rename={"module/": "net/"})["net"]
    assert [*renamed] == ["weight", "bias"]


def test_enums_and_dataclasses_come_back_with_their_classes(run):
    state = {"kind": Schedule.COSINE, "kinds": [Schedule.COSINE], "config": Config(0.5, torch.arange(3))}
    save(state, run, 1).result()
    with pytest.raises(InvalidRequestError, match=r"kind: .*classes=\[Schedule\]"):
        load(run)
    found = load(run, classes=[Schedule, Config])
    assert found["kind"] is Schedule.COSINE
    assert found["kinds"] == [Schedule.COSINE]
    assert (type(found["config"]), found["config"].rate) == (Config, 0.5)
    assert torch.equal(found["config"].weights, torch.arange(3))


def test_what_is_replaced_tells_its_class_and_a_missing_one_changes_nothing(run):
    save({"w": torch.ones(2), "kind": Schedule.COSINE, "config": Config(0.5, torch.ones(1))}, run, 1).result()
    into = {"w": torch.zeros(2), "kind": None}
    with pytest.raises(InvalidRequestError, match="kind"):
        load(run, into=into)
    assert into["w"].tolist() == [0, 0]
    into = {"w": torch.zeros(2), "kind": Schedule.COSINE, "config": Config(0.0, torch.zeros(1))}
    found = load(run, into=into)
    assert found["kind"] is Schedule.COSINE
    assert found["config"].rate == 0.5


@pytest.mark.parametrize("name", ["float8_e8m0fnu", "float4_e2m1fn_x2", "complex32"])
def test_a_dtype_that_no_other_reader_has_is_stored_by_its_bits(run, name):
    dtype = getattr(torch, name, None)
    if dtype is None:  # an older torch
        assert name != "complex32"
        return
    bits = torch.int32 if name == "complex32" else torch.uint8
    numbers = torch.arange(8, dtype=bits).reshape(2, 4)
    state = {"x": numbers.view(dtype), "list": [torch.nn.Parameter(numbers.view(dtype), requires_grad=False)]}
    save(state, run, 1).result()
    found = load(run)
    into = {"x": torch.zeros_like(numbers).view(dtype), "list": [torch.zeros_like(numbers).view(dtype)]}
    assert load(run, into=into) is into
    for each in (found, into):
        for tensor in (each["x"], each["list"][0]):
            assert tensor.dtype == dtype
            assert torch.equal(tensor.view(bits), numbers)
    with pytest.raises(InvalidRequestError, match=rf"x is stored as {name}, and here it is"):
        load(run, into={"x": torch.zeros_like(numbers)})
    save({"x": numbers}, run, 2).result()
    with pytest.raises(InvalidRequestError, match=rf"x is stored as .*int.*, and here it is torch.{name}, and no cast"):
        load(run, into={"x": torch.zeros_like(numbers).view(dtype)})


def test_nothing_is_written_of_what_is_refused(run):
    with pytest.raises(InvalidRequestError, match="a/0: "):
        save({"w": torch.ones(2), "a": [object()]}, run, 1)
    assert not list(run.glob("*.index"))


@pytest.mark.parametrize("step", [1, None])
def test_the_first_save_into_a_directory_is_waited_for_by_a_load_right_after_it(tmp_path, step):
    save({"w": torch.ones(1000)}, tmp_path / "new/run", step)
    assert load(tmp_path / "new/run")["w"].sum() == 1000
    close_all()


def test_numpys_scalars_and_texts_are_what_they_were(run):
    state = {"scalar": np.float64(1.5), "flag": np.bool_(True), "text": np.str_("x"), "texts": np.array(["a", "bc"])}
    save(state, run, 1).result()
    found = load(run)
    assert [type(value) for value in found.values()] == [type(value) for value in state.values()]
    assert found["texts"].dtype == state["texts"].dtype
    assert found["texts"].tolist() == ["a", "bc"]
    assert (found["scalar"], found["flag"], found["text"]) == (1.5, True, "x")


class Mine(torch.Tensor):
    pass


def test_parameters_gradients_and_classes_of_tensors_come_back_as_torch_save_brings_them_back(run):
    bits = torch.arange(4, dtype=torch.int32).view(torch.complex32)
    state = {
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "frozen": torch.nn.Parameter(torch.ones(2, dtype=torch.int32), requires_grad=False),
        "leaf": torch.ones(2, requires_grad=True),
        "made": torch.ones(2, requires_grad=True) * 3,
        "plain": torch.ones(2),
        "mine": torch.ones(2).as_subclass(Mine),
        "bits": torch.nn.Parameter(bits, requires_grad=False),
        "all": dict(torch.nn.Linear(2, 2).named_parameters()),
    }
    save(state, run, 1).result()
    torch.save(state, run / "stock.pt")
    stock = torch.load(run / "stock.pt", weights_only=False)
    found = load(run, classes=[Mine])
    for mine, theirs in zip(_tensors(found), _tensors(stock), strict=True):
        assert (type(mine), mine.requires_grad, mine.dtype) == (type(theirs), theirs.requires_grad, theirs.dtype)
        assert mine.detach().view(torch.int32).equal(theirs.detach().view(torch.int32))
    with pytest.raises(InvalidRequestError, match=r"mine: this is a Mine .*classes=\[Mine\]"):
        load(run)
    into = {"parameter": torch.zeros(2), "plain": torch.nn.Parameter(torch.zeros(2)), "mine": torch.zeros(2)}
    load(run, into=into)
    assert all(tensor.detach().equal(torch.ones(2)) for tensor in into.values())


def _tensors(state):
    for value in state.values():
        yield from _tensors(value) if isinstance(value, dict) else [value]


def test_a_framework_that_knows_no_parameters_takes_the_elements(run):
    save({"w": torch.nn.Parameter(torch.ones(2)), "bits": torch.ones(2, dtype=torch.complex32)}, run, 1).result()
    stored = load_checkpoint(run)
    tree = read_outline(stored["_CKPTD_OUTLINE"])
    assert rebuild(tree["w"], stored.__getitem__, lambda array: array, ("w",)).tolist() == [1, 1]
    with pytest.raises(InvalidRequestError, match="bits: numpy has no elements of complex32"):
        rebuild(tree["bits"], stored.__getitem__, lambda array: array, ("bits",))


def _named(**attributes):
    tensor = torch.ones(2).as_subclass(Mine)
    tensor.__dict__.update(attributes)
    return tensor


@pytest.mark.filterwarnings("ignore:.*(nested|quantize|Quantize).*")
@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), r"nested; store its parts, x.unbind\(\)"),
        (lambda: torch.nested.nested_tensor([torch.ones(2)], layout=torch.jagged), r"nested; store its parts"),
        (lambda: torch.nn.LazyLinear(2), "'here/weight' has no shape yet: run one batch"),
        (lambda: torch.eye(2).to_sparse(), r"x.to_dense\(\)"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), r"store x.int_repr\(\)"),
        (lambda: _named(scale=2), "attributes beside its elements .scale."),
    ],
)
def test_a_tensor_that_would_not_come_back_is_refused_by_its_name(run, make, told):
    with pytest.raises(InvalidRequestError, match=told) as refusal:
        save({"here": make()}, run, 1)
    assert "here" in str(refusal.value)
    assert not list(run.glob("*.index"))


def test_ranks_whose_tensors_differ_in_the_gradient_alone_do_not_contradict_each_other():
    frozen, trained = torch.nn.Parameter(torch.ones(1), requires_grad=False), torch.nn.Parameter(torch.ones(1))
    outlines = [named_parts({"w": w}, rank) for rank, w in enumerate([trained, frozen, torch.ones(1)])]
    stored = {name: one for parts in outlines for name, one in parts.items()}
    merged = merged_outline(stored, stored)
    assert not merged.conflicts
    assert merged.tree["w"].typed.beside == ["Parameter", True, None]
    bits = named_parts({"w": torch.ones(1, dtype=torch.complex32)}, 1)
    assert list(merged_outline(stored | bits, stored | bits).conflicts) == [("w",)]
