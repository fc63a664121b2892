"""Processes of neighbouring versions work together: no field, enum value or method of the wire ever changes."""

from __future__ import annotations

import sys

import pytest

from tests.unit.wire import promised


def test_what_is_promised_of_the_wire_holds():
    assert not promised.broken(promised.promised(), promised.described())


def test_what_is_new_on_the_wire_is_promised_too():
    new = promised.described().keys() - promised.promised().keys()
    assert not new, "run: python -m tests.unit.wire.promised --write"


@pytest.mark.parametrize("now", [{"m.a": "1, int64", "m.b": "3, bytes"}, {"m.a": "1, int64"}])
def test_a_field_that_changes_and_one_that_goes_break_a_promise(now, tmp_path, monkeypatch):
    told = {"m.a": "1, int64", "m.b": "2, bytes"}
    [problem] = promised.broken(told, now)
    assert problem.startswith("m.b = 2, bytes, and now")
    path = tmp_path / "promised.txt"
    path.write_text("".join(f"{name} = {what}\n" for name, what in told.items()))
    before = path.read_text()
    monkeypatch.setattr(promised, "PROMISED", path)
    monkeypatch.setattr(promised, "described", lambda: now)
    monkeypatch.setattr(sys, "argv", ["promised", "--write"])
    with pytest.raises(SystemExit, match="not so any more"):
        promised.main()
    assert path.read_text() == before
