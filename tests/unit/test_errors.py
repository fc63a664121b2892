"""Errors say what happened from their fields, travel between processes, and take notes on every Python."""

from __future__ import annotations

import pickle

import pytest

from ckptd import errors
from ckptd.errors import CkptdError, CorruptionError

MESSAGES = [
    ({}, "bad"),
    ({"key": "a.index"}, "a.index: bad"),
    ({"key": "a.index", "offset": 0}, "a.index: bad at byte 0"),
    ({"offset": 7, "expected": 1, "actual": 2}, "bad at byte 7 (expected 1, found 2)"),
    ({"expected": "x"}, "bad (expected x)"),
    ({"actual": 0}, "bad (found 0)"),
]


@pytest.mark.parametrize(("fields", "text"), MESSAGES)
def test_a_message_is_made_of_the_fields(fields, text):
    assert str(CorruptionError("bad", **fields)) == text


def test_an_error_travels_between_processes():
    error = pickle.loads(pickle.dumps(CorruptionError("bad", key="k", offset=3, expected=1, actual=2)))
    assert (type(error), str(error)) == (CorruptionError, "k: bad at byte 3 (expected 1, found 2)")


def test_the_tensor_of_an_error_is_named_once_and_all_else_stays():
    error = errors.UnavailableError("no answer", key="k", offset=3, expected=1, actual=2)
    error.add_note("while reading")
    error.may_have_arrived = False
    named = error.in_tensor("layer 'a'")
    assert str(named) == "k: tensor \"layer 'a'\": no answer at byte 3 (expected 1, found 2)"
    assert (type(named), named.tensor, named.may_have_arrived) == (errors.UnavailableError, "layer 'a'", False)
    assert named.__notes__ == ["while reading"]
    assert named.in_tensor("b") is named
    assert pickle.loads(pickle.dumps(named)).tensor == "layer 'a'"
    # A reason in which the name only happens to stand is no reason to leave it out.
    assert CorruptionError("file 'w' is short").in_tensor("w").reason == "tensor 'w': file 'w' is short"


def test_notes_can_be_added():
    error = CkptdError("bad")
    error.add_note("while saving")
    assert error.__notes__ == ["while saving"]


def test_every_class_has_an_exit_code_of_its_own():
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, CkptdError)]
    codes = [kind.exit_code for kind in classes if kind is CkptdError or CkptdError in kind.__bases__]
    assert sorted(codes) == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert {kind.exit_code for kind in classes} == set(codes)  # a finer class has that of its base
    assert [kind.__name__ for kind in classes if kind.retryable] == ["UnavailableError"]
