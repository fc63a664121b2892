from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptd.errors import CorruptionError, InvalidRequestError
from ckptd.format.names import is_note
from ckptd.trees.flatten import flatten, leaves_of, read_outline, unflatten
from ckptd.trees.outline import OUTLINE_NAME, Leaf, decode_outline


class Parameter:
    """Stands for a framework's array."""

    def __init__(self, value: float) -> None:
        self.value = value


def is_parameter(value: Any) -> bool:
    return isinstance(value, Parameter)


def stored(leaves: dict[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint gives back for these leaves."""
    found = {}
    for name, leaf in leaves.items():
        value = np.float32(leaf.value) if isinstance(leaf, Parameter) else leaf
        value = value.encode() if isinstance(value, str) else value
        found[name] = np.array(value, object) if isinstance(value, bytes) else np.asarray(value)
    return found


def there_and_back(state: Any) -> Any:
    return unflatten(stored(flatten(state, is_parameter)), lambda array: Parameter(float(array)))


def test_a_leaf_is_named_by_the_path_to_it_and_numbers_are_tensors_that_everyone_sees():
    w = Parameter(1)
    leaves = flatten(
        {"model": OrderedDict(w=w), "epoch": 3, "groups": [{"lr": 0.1, "betas": (0.9, 0.99)}]}, is_parameter
    )
    assert list(leaves) == ["model/w", "epoch", "groups/0/lr", OUTLINE_NAME]
    assert leaves["model/w"] is w
    assert leaves["epoch"].dtype == np.int64
    assert leaves["groups/0/lr"].dtype == np.float64


def test_nested_state_comes_back_as_it_was():
    state = {
        "state": {0: {"step": Parameter(7)}, 1: {}},
        "names": ["a", "b"],
        "nothing": None,
        "big": 1 << 80,
        "text": "Grüße",
        "raw": b"\x00\xff\x00",
        "flags": [True, None, 2, 2.5, "x", b"y", float("inf"), 1 + 2j],
        "mixed": (1, {"deep": [Parameter(2), "s"]}),
        "numbers": np.arange(3),
        True: False,
    }
    back = there_and_back(state)
    assert back.keys() == state.keys()
    assert back["state"][0]["step"].value == 7
    assert back["state"][1] == {}
    assert back["mixed"][1]["deep"][0].value == 2
    assert back["mixed"][1]["deep"][1] == "s"
    assert isinstance(back["mixed"], tuple)
    assert back["numbers"].tolist() == [0, 1, 2]
    plain = ["names", "nothing", "big", "text", "raw", "flags", True]
    assert [back[key] for key in plain] == [state[key] for key in plain]
    assert [type(one) for one in back["flags"]] == [type(one) for one in state["flags"]]


PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
# Without the names of ckptd's own notes, which hypothesis finds in our source.
KEYS = st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1).filter(lambda key: not is_note(key))
STATES = st.dictionaries(
    KEYS, st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner) | st.tuples(inner, inner))
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no finding
@given(STATES)
def test_any_plain_state_comes_back(state):
    assert there_and_back(state) == state


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"a": {"fn": print}}, r"a/fn: builtin_function_or_method can't be saved without pickle"),
        ({"a/b": 1, "a": {"b": 2}}, r"a/b: two parts of the state would have this name"),
        ({"a": {(1, 2): 3}}, r"a: a key of type tuple can't be saved"),
        ({OUTLINE_NAME: 1}, r"keeps this name for its own notes"),
        ({"_CKPTD_DCP": {"0": 1}}, r"_CKPTD_DCP/0: ckptd keeps this name"),
        ({"\ud800": 1}, r"'\\ud800': a key without UTF-8"),
        ({"": np.zeros(1)}, r"no name"),
        (3, r"a dict, a list or a tuple"),
    ],
)
def test_what_has_no_form_is_refused_with_its_path(state, says):
    with pytest.raises(InvalidRequestError, match=says):
        flatten(state, is_parameter)


def test_state_that_contains_itself_is_refused():
    state: dict[str, Any] = {"a": {}}
    state["a"]["b"] = [state]
    with pytest.raises(InvalidRequestError, match="a/b/0: the state contains itself"):
        flatten(state, is_parameter)


def test_a_checkpoint_without_an_outline_is_a_flat_dict():
    assert unflatten({"a/b": np.float32(1)}, float) == {"a/b": 1.0}


def test_the_outline_tells_names_and_kinds_before_anything_is_read():
    leaves = flatten({"w": Parameter(1), "list": [{"lr": 0.5}]}, is_parameter)
    assert list(leaves_of(read_outline(leaves[OUTLINE_NAME]))) == [("w", Leaf("array")), ("list/0/lr", Leaf("float"))]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"version":2,"state":1}',
        b'{"version":1}',
        b'{"version":1,"state":[1]}',
        b'{"version":1,"state":{"pickle":"x"}}',
        b'{"version":1,"state":{"dict":[[1,2],[1,3]]}}',
        b'{"version":1,"state":{"dict":[[{"list":[]},3]]}}',
        b'{"version":1,"state":{"dict":3}}',
        b'{"version":1,"state":{"bytes":"*"}}',
        b'{"version":1,"state":{"leaf":3}}',
        b'{"version":1,"state":{"list":[],"tuple":[]}}',
        b'{"version":1,"state":' + b'{"list":[' * 5000 + b"]}" * 5000 + b"}",
        b"\xff",
    ],
)
def test_a_damaged_outline_is_corruption(data):
    with pytest.raises(CorruptionError):
        decode_outline(data)


def test_an_outline_that_names_what_is_not_there_is_corruption():
    leaves = stored(flatten({"w": Parameter(1)}, is_parameter))
    del leaves["w"]
    with pytest.raises(CorruptionError, match="w: the outline names a tensor that is missing"):
        unflatten(leaves, float)
