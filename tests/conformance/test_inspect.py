"""`ckptd inspect` against the recorded output of TensorFlow's inspect_checkpoint, letter by letter."""

from __future__ import annotations

import json

import pytest

from ckptd.cli import main
from tests.conformance.bundle_files import FIXTURES

FIXTURE = FIXTURES / "tf" / "inspect_output"
CALLS = json.loads((FIXTURE / "manifest.json").read_text())["calls"]


def options(arguments):
    for name, value in arguments.items():
        if value is True:
            yield f"--{name}"
        elif value:
            yield f"--{name}={value}"


@pytest.mark.parametrize("call", CALLS, ids=lambda call: " ".join([call["file_name"], *options(call["args"])]))
def test_the_text_is_that_of_tensorflow(call, monkeypatch, capsys):
    monkeypatch.chdir(FIXTURE)
    code = main.run(["inspect", "--file_name", call["file_name"], *options(call["args"])])
    captured = capsys.readouterr()
    assert captured.out == call["stdout"]
    assert captured.err == ""
    missing = "not found" in call["stdout"] or "Failed to find" in call["stdout"]
    assert code == (3 if missing else 8 if "DATA_LOSS" in call["stdout"] else 0)


def test_the_index_itself_passes_for_a_table_without_tensors_as_with_tensorflow(monkeypatch, capsys):
    monkeypatch.chdir(FIXTURE)
    assert main.run(["inspect", "ckpt.index"]) == 0
    assert capsys.readouterr().out == "\n# Total number of params: 0\n"


def test_a_wrong_pattern_and_no_prefix_are_told_apart_from_tensorflow_s_answers(capsys):
    assert main.run(["inspect"]) == 2
    assert main.run(["inspect", str(FIXTURE / "ckpt"), "--count_exclude_pattern", "("]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 2
