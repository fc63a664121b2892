"""Nested state of real modules and optimizers, saved and loaded by one process."""

from __future__ import annotations

import collections
import logging

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import ckptd  # noqa: E402
from ckptd.torch import close_all, load, named_parts, save  # noqa: E402


def make_model(seed=0, width=5):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.BatchNorm1d(width), torch.nn.Linear(width, 2))


def make_training(seed=0, width=5):
    model = make_model(seed, width)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    schedulers = [torch.optim.lr_scheduler.LinearLR(optimizer), torch.optim.lr_scheduler.StepLR(optimizer, 2)]
    scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, schedulers, milestones=[3])
    return model, optimizer, scheduler


def train(model, optimizer, scheduler, steps, first=0):
    losses = []
    for step in range(first, first + steps):
        torch.manual_seed(100 + step)
        loss = model(torch.randn(8, 4)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return losses


def same(one, other):
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def test_state_comes_back_as_it_was_with_names_that_everyone_can_read(tmp_path):
    model, optimizer, scheduler = make_training()
    train(model, optimizer, scheduler, 3)
    counts = collections.defaultdict(int, seen=7)
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
        "rng": torch.get_rng_state(),
        "epoch": 3,
        "name": "Grüße",
        "counts": counts,
        "half": torch.randn(3, 4).to(torch.bfloat16).T,
        "numpy": np.arange(3),
        "nothing": None,
        "deep": [{"a": torch.tensor(True)}, (torch.tensor(1j), 2.5, b"raw")],
    }
    done = save(state, tmp_path / "run", 3).result()
    back = load(tmp_path / "run")
    assert same({**state, "model": dict(state["model"]), "counts": dict(counts)}, back)
    reader = ckptd.load_checkpoint(done.prefix)
    assert np.array_equal(reader["model/0.weight"], model[0].weight.detach().numpy())
    assert reader["optimizer/state/0/exp_avg"].shape == (5, 4)
    assert reader["epoch"] == 3


def test_training_goes_on_bitwise_the_same_in_a_new_process_of_the_same_program(tmp_path):
    training = make_training()
    train(*training, 4)
    model, optimizer, scheduler = training
    save({"model": model, "optimizer": optimizer, "scheduler": scheduler, "step": 4}, tmp_path / "run", 4).result()
    expected = train(*training, 3, first=4)

    model, optimizer, scheduler = make_training(seed=1)
    pointer = model[0].weight.data_ptr()
    state = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "step": 0}
    assert load(tmp_path / "run", into=state) is state
    assert state["step"] == 4
    assert model[0].weight.data_ptr() == pointer
    assert train(model, optimizer, scheduler, 3, first=4) == expected


def test_tensors_are_views_until_they_are_captured():
    model = make_model()
    parts = named_parts({"model": model})
    assert np.shares_memory(parts["model/0.weight"], model[0].weight.detach().numpy())


def test_tensors_may_change_once_save_has_returned(tmp_path):
    w = torch.zeros(1000)
    pending = save({"w": w}, tmp_path / "run", 1)
    w.fill_(1)
    pending.result()
    assert load(tmp_path / "run")["w"].sum() == 0


def test_a_part_of_the_state_can_be_loaded_alone(tmp_path):
    model, optimizer, _ = make_training()
    save({"model": model, "optimizer": optimizer, "epoch": 1}, tmp_path / "run", 1).result()
    other = make_model(seed=1)
    load(tmp_path / "run", into={"model": other})
    assert same(dict(model.state_dict()), dict(other.state_dict()))
    assert same(load(tmp_path / "run", into={"model": None})["model"], dict(model.state_dict()))


def test_everything_that_does_not_fit_is_told_at_once_and_nothing_is_changed(tmp_path):
    save({"model": make_model(), "half": torch.zeros(2)}, tmp_path / "run", 1).result()
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(6, 2))
    before = model[0].weight.clone()
    into = {"model": model, "half": torch.zeros(2, dtype=torch.float16), "heads": torch.zeros(1)}
    with pytest.raises(ckptd.InvalidRequestError) as caught:
        load(tmp_path / "run", into=into)
    told = str(caught.value)
    assert "model/2.weight is stored as float32 [2, 5], and here it is float32 [2, 6]" in told
    assert "half is stored as float32 [2], and here it is float16 [2]" in told
    assert "heads is not stored" in told
    assert torch.equal(model[0].weight, before)


def test_what_is_stored_and_has_no_place_is_refused_unless_the_caller_does_not_mind(tmp_path):
    save({"model": {"a": torch.ones(2), "b": torch.ones(3)}}, tmp_path / "run", 1).result()
    with pytest.raises(ckptd.InvalidRequestError, match="model/b is stored, and has no place here"):
        load(tmp_path / "run", into={"model": {"a": torch.zeros(2)}})
    assert load(tmp_path / "run", into={"model": {"a": torch.zeros(2)}}, strict=False).state["model"]["a"].sum() == 2


def test_a_checkpoint_that_numpy_wrote_is_loaded_too(tmp_path):
    arrays = {"model/w": np.ones((2, 3), np.float32), "epoch": np.int64(4), "words": np.array([b"a", b"b"], object)}
    ckptd.save_checkpoint(tmp_path / "model.ckpt", arrays)
    flat = load(tmp_path / "model.ckpt")
    assert torch.equal(flat["model/w"], torch.ones(2, 3))
    assert flat["words"].tolist() == [b"a", b"b"]
    state = load(tmp_path / "model.ckpt", into={"model": {"w": torch.zeros(2, 3)}, "epoch": 0})
    assert state["epoch"] == 4
    assert torch.equal(state["model"]["w"], torch.ones(2, 3))


def test_a_strided_tensor_is_filled_in_place(tmp_path):
    save({"w": torch.arange(12.0).reshape(3, 4)}, tmp_path / "run", 1).result()
    base = torch.zeros(4, 3)
    load(tmp_path / "run", into={"w": base.T})
    assert torch.equal(base, torch.arange(12.0).reshape(3, 4).T)


def test_new_tensors_go_where_they_are_wanted(tmp_path):
    save({"w": torch.ones(2), "n": 1}, tmp_path / "run", 1).result()
    state = load(tmp_path / "run", device="meta")
    assert (state["w"].device.type, state["w"].shape, state["n"]) == ("meta", (2,), 1)


def test_a_tensor_whose_memory_is_not_what_it_shows_is_filled_by_a_copy(tmp_path):
    save({"c": torch.tensor([1 + 2j, 3j])}, tmp_path / "run", 1).result()
    into = {"c": torch.zeros(2, dtype=torch.complex64).conj()}
    assert load(tmp_path / "run", into=into)["c"].tolist() == [1 + 2j, 3j]


def test_a_part_of_a_tensor_may_be_given_as_a_slice_of_it(tmp_path):
    parts = [ckptd.Slice(torch.full((1, 3), float(row)), (2, 3), (row, 0)) for row in (0, 1)]
    save({"emb": parts, "one": ckptd.Slice(torch.ones(2), (2,), (0,))}, tmp_path / "run", 1).result()
    assert load(tmp_path / "run")["emb"].tolist() == [[0.0] * 3, [1.0] * 3]


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({"model": {"fn": torch.relu}}, "model/fn"),
        ({"random": torch.Generator()}, "random"),
        ({"meta": torch.ones(2, device="meta")}, "'meta'"),
    ],
    ids=["function", "generator", "meta"],
)
def test_what_would_need_pickle_is_refused_by_its_path(tmp_path, state, told):
    with pytest.raises(ckptd.InvalidRequestError, match=told):
        save(state, tmp_path / "run", 1)


def test_state_that_contains_itself_is_refused(tmp_path):
    state = {}
    state["self"] = state
    with pytest.raises(ckptd.InvalidRequestError, match="contains itself"):
        save(state, tmp_path / "run", 1)


def test_a_checkpointer_is_used_as_it_is_and_steps_are_found(tmp_path):
    with ckptd.Checkpointer(tmp_path, "run", max_to_keep=2) as checkpointer:
        for step in (1, 2, 3):
            save({"w": torch.full((2,), float(step))}, checkpointer, step).result()
        assert load(checkpointer, 2)["w"].tolist() == [2.0, 2.0]
        assert load(checkpointer)["w"].tolist() == [3.0, 3.0]
        with pytest.raises(ckptd.InvalidRequestError, match="options"):
            save({"w": torch.ones(1)}, checkpointer, 4, max_to_keep=3)
    assert load(tmp_path / "run", 2)["w"].tolist() == [2.0, 2.0]
    with pytest.raises(ckptd.NotFoundError):
        load(tmp_path / "run", 1)


def test_a_path_keeps_its_options_until_it_is_closed(tmp_path):
    save({"w": torch.ones(1)}, tmp_path / "run", 1, max_to_keep=1).result()
    with pytest.raises(ckptd.InvalidRequestError, match="other options"):
        save({"w": torch.ones(1)}, tmp_path / "run", 2)
    close_all()
    save({"w": torch.ones(1)}, tmp_path / "run", 2).result()


def test_each_save_says_in_the_log_how_long_training_stood_still(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "ckptd.torch"):
        save({"w": torch.ones(3)}, tmp_path / "run", 7).result()
        close_all()
    assert "the save of step 7: training stood still for" in caplog.text
    assert "model.ckpt-7 is durable after" in caplog.text


class Container(torch.optim.Optimizer):
    """Optimizers of several parts of a model behind one flat state dict, as TorchTitan's `OptimizersContainer`."""

    def __init__(self, model):
        self.model = model
        self.optimizers = [torch.optim.AdamW(part.parameters(), lr=0.01) for part in model]
        super().__init__(list(model.parameters()), {})

    def step(self, closure=None):
        for one in self.optimizers:
            one.step()

    def state_dict(self):
        flat = {}
        for number, one in enumerate(self.optimizers):
            for name, parameter in self.model[number].named_parameters():
                moments = one.state.get(parameter) or {"exp_avg": torch.zeros_like(parameter)}
                flat |= {f"state.{number}.{name}.{key}": value for key, value in moments.items()}
            flat[f"param_groups.{number}.lr"] = one.param_groups[0]["lr"]
        return flat

    def load_state_dict(self, state):
        for number, one in enumerate(self.optimizers):
            for name, parameter in self.model[number].named_parameters():
                prefix = f"state.{number}.{name}."
                one.state[parameter] = {
                    key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)
                }
            one.param_groups[0]["lr"] = state[f"param_groups.{number}.lr"]


def test_an_optimizer_whose_state_is_flat_is_loaded(tmp_path):
    def make():
        torch.manual_seed(0)
        return Container(torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1)))

    def step(optimizer):
        optimizer.model(torch.ones(4, 3)).sum().backward()
        optimizer.step()

    before = make()
    step(before)
    save({"optimizer": before, "model": before.model}, tmp_path / "run", 1).result()
    after = make()
    step(after)  # moments of its own, which are filled
    load(tmp_path / "run", into={"optimizer": after, "model": after.model})
    assert after.state_dict().keys() == before.state_dict().keys()
    for one, other in zip(before.state_dict().values(), after.state_dict().values(), strict=True):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))


def test_an_optimizer_without_moments_and_without_groups_takes_what_is_stored(tmp_path):
    class Bare(torch.optim.SGD):
        def state_dict(self):
            return {"lr": self.param_groups[0]["lr"]}

        def load_state_dict(self, state):
            self.param_groups[0]["lr"] = state["lr"]

    parameters = [torch.nn.Parameter(torch.ones(2))]
    save({"optimizer": Bare(parameters, lr=0.5)}, tmp_path / "run", 1).result()
    bare = Bare(parameters, lr=0.1)
    load(tmp_path / "run", into={"optimizer": bare})
    assert bare.param_groups[0]["lr"] == 0.5
