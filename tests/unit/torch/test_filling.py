"""What a load does with what a program has: its arguments, containers, tensors that share memory, states of objects."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ckptd
from ckptd.torch.loading import load
from ckptd.torch.saving import save


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"map_location": "cpu"}, "device= creates new tensors there"),
        ({"weights_only": True}, "nothing is ever unpickled"),
        ({"max_to_kep": 3}, "there is no option 'max_to_kep': a Checkpointer has .*max_to_keep"),
        ({"strict": "no"}, "strict is True or False"),
        ({"step": 1.0}, "a step is a whole number"),
        ({"step": "1"}, "a step is a whole number"),
        ({"device": "nowhere"}, "device='nowhere' can't be used"),
        ({"device": "meta", "into": {"model": {}}}, "has no elements to fill"),
        ({"classes": int}, "`classes` is a list of classes"),
        ({"into": torch.zeros(1)}, "`into` is a dict, a list, a tuple, or an object"),
        ({"into": [torch.zeros(1)]}, "holds a dict, and `into` is a list"),
    ],
)
def test_an_argument_is_followed_or_refused_before_anything_is_read(tmp_path, options, told):
    save({"model": {"x": 1}}, tmp_path / "run", 1).result()
    with pytest.raises(ckptd.InvalidRequestError, match=told):
        load(tmp_path / "run", **options)
    if options.keys() <= {"max_to_kep", "map_location"}:
        with pytest.raises(ckptd.InvalidRequestError, match=told):
            save({"x": 1}, tmp_path / "other", 1, **options)


def test_a_container_of_ones_own_is_given_back_filled(tmp_path):
    for stored, into in ([[1, 2], [0]], [{"a": 1}, {}], [[torch.ones(1), 2], [torch.zeros(1), 0]]):
        place = tmp_path / str(len(str(stored)))
        save(stored, place, 1).result()
        assert load(place, into=into) is into
        assert into == stored


@pytest.mark.parametrize(
    ("stored", "here", "told"),
    [
        (None, {"a": torch.zeros(1)}, "v/a is not stored"),
        (3, {"a": torch.zeros(1)}, "v/a is not stored"),
        ({"a": 1}, torch.zeros(1), "v is stored as a dict, and here it is a tensor"),
        ([1], torch.zeros(1), "v is stored as a list of 1, and here it is a tensor"),
        (None, torch.zeros(1), "v is not stored"),
    ],
)
def test_a_tensor_that_the_program_has_does_not_give_way_to_something_else(tmp_path, stored, here, told):
    save({"v": stored, "w": torch.ones(1)}, tmp_path / "run", 1).result()
    into = {"v": here, "w": torch.zeros(1)}
    with pytest.raises(ckptd.InvalidRequestError, match=told):
        load(tmp_path / "run", into=into)
    loaded = load(tmp_path / "run", into=into, strict=False)
    assert into["v"] is here
    assert loaded.missing_keys + [one.key for one in loaded.mismatched_keys] == [told.split()[0]]


def test_data_of_an_object_is_taken_as_it_is_stored_as_by_its_own_load_state_dict(tmp_path):
    def scheduler(milestones):
        optimizer = torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), 0.1)
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones)

    before, mine, stock = scheduler([1, 2]), scheduler([3]), scheduler([3])
    save({"scheduler": before}, tmp_path / "run", 1).result()
    load(tmp_path / "run", into={"scheduler": mine})
    stock.load_state_dict(before.state_dict())
    assert mine.milestones == stock.milestones == {1: 1, 2: 1}
    assert type(mine.milestones) is type(stock.milestones)


class Same(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False)
        self.second.weight = self.first.weight


def test_tied_weights_that_were_stored_untied_get_the_last_as_in_torch(tmp_path):
    state = {"first.weight": torch.ones(2, 2), "second.weight": torch.full((2, 2), 2.0)}
    save({"model": state}, tmp_path / "run", 1).result()
    mine, stock = Same(), Same()
    stock.load_state_dict(state)
    load(tmp_path / "run", into={"model": mine})
    assert torch.equal(mine.first.weight, stock.first.weight)
    assert mine.first.weight is mine.second.weight
    whole = torch.zeros(4)
    save({"whole": torch.arange(4.0), "part": torch.full((2,), 9.0)}, tmp_path / "views", 1).result()
    load(tmp_path / "views", into={"whole": whole, "part": whole[1:3]})
    assert whole.tolist() == [0, 9, 9, 3]


@pytest.mark.parametrize("name", ["first.weight", "second.weight"])
def test_tied_weights_on_the_meta_device_are_filled_by_whichever_name_is_stored(tmp_path, name):
    save({"model": {name: torch.ones(2, 2)}}, tmp_path / "run", 1).result()
    with torch.device("meta"):
        mine = Same()
    load(tmp_path / "run", into={"model": mine})
    assert mine.first.weight is mine.second.weight
    assert torch.equal(mine.first.weight, torch.ones(2, 2))
    with torch.device("meta"):
        wrapped = torch.nn.Sequential(Same())
    with pytest.raises(ckptd.InvalidRequestError, match="holds no part of the state to load"):
        load(tmp_path / "run", into={"model": wrapped}, strict=False)


@pytest.mark.parametrize(
    ("stored", "here", "is_filled"),
    [
        (np.array([b"ab"]), np.array([b"zz"]), True),
        (np.array(["ab"]), np.array(["zz"]), True),
        (np.array(["abc"]), np.array(["z"]), False),
        (np.array(["a"], object), np.array(["z"], object), True),
        (np.arange(2, dtype=">i4"), np.zeros(2, ">i4"), True),
        (np.arange(2, dtype="<i4"), np.zeros(2, ">i4"), True),
        (np.arange(2, dtype=">i4"), np.zeros(2, "<i4"), True),
        (np.float32(3), np.zeros((), np.float32), True),
    ],
)
def test_arrays_of_texts_and_other_orders_of_bytes_are_filled_or_replaced(tmp_path, stored, here, is_filled):
    save({"v": stored}, tmp_path / "run", 1).result()
    into = {"v": here}
    load(tmp_path / "run", into=into)
    assert into["v"].tolist() == stored.tolist()
    assert (into["v"] is here) is is_filled
    with pytest.raises(ckptd.InvalidRequestError, match="v is stored as "):
        load(tmp_path / "run", into={"v": np.resize(here, (5,))})


class Wrapper:
    """As programs write them: what is loaded goes to the module that is inside."""

    def __init__(self, module, **options):
        self.module, self.options = module, options

    def state_dict(self):
        return {"inside": self.module.state_dict()}

    def load_state_dict(self, state):
        self.module.load_state_dict(state["inside"], **self.options)


@pytest.mark.filterwarnings("ignore:.*meta parameter.*")
def test_an_object_that_copies_to_the_meta_device_is_told_that_it_has_loaded_nothing(tmp_path):
    model = torch.nn.Linear(2, 2)
    save({"app": Wrapper(model)}, tmp_path / "run", 1).result()
    copying, assigning = (Wrapper(torch.nn.Linear(2, 2, device="meta"), assign=one) for one in (False, True))
    with pytest.raises(ckptd.InvalidRequestError, match="app: its tensors are still on the meta device"):
        load(tmp_path / "run", into={"app": copying})
    load(tmp_path / "run", into={"app": assigning})
    assert torch.equal(assigning.module.weight, model.weight)
