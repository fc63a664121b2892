"""`ckptd inspect` against the recorded output of TensorFlow's inspect_checkpoint, letter by letter."""

from __future__ import annotations

import json

import pytest

from ckptd.cli import main
from ckptd.printable import printable
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
    code = main.run(["inspect", "--raw", "--file_name", call["file_name"], *options(call["args"])])
    captured = capsys.readouterr()
    assert captured.out == call["stdout"]
    assert captured.err == ""
    missing = "not found" in call["stdout"] or "Failed to find" in call["stdout"]
    assert code == (3 if missing else 8 if "DATA_LOSS" in call["stdout"] else 0)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: " ".join([call["file_name"], *options(call["args"])]))
def test_without_raw_it_is_the_same_with_control_characters_escaped(call, monkeypatch, capsys):
    monkeypatch.chdir(FIXTURE)
    main.run(["inspect", "--file_name", call["file_name"], *options(call["args"])])
    assert capsys.readouterr().out == printable(call["stdout"], lines=True)


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


def inspected(capsys, *options):
    assert main.run(["inspect", str(FIXTURE / "ckpt"), *options]) == 0
    return capsys.readouterr().out


def test_flags_may_have_values_as_with_tensorflow(capsys):
    names = inspected(capsys, "--all_tensor_names")
    assert inspected(capsys, "--all_tensor_names=True") == names
    assert inspected(capsys, "--all_tensor_names", "true", "--all_tensors=false") == names
    assert inspected(capsys, "--all_tensor_names=False") == inspected(capsys)


def test_values_are_printed_as_numpy_is_told(capsys):
    assert (
        main.run(["inspect", "--printoptions", "precision=1", "threshold=2", "--file_name", str(FIXTURE / "ckpt")]) == 0
    )
    capsys.readouterr()
    plain = inspected(capsys, "--all_tensors")
    told = inspected(capsys, "--all_tensors", "--printoptions", "threshold=2", "edgeitems=1")
    assert "..." in told
    assert inspected(capsys, "--all_tensors") == plain  # it was for that call only


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("precision", "'precision' is not in the form k=v."),
        ("colour=red", "'colour' is not a valid printoption."),
        ("formatter=x", "Setting 'formatter' from the command line is not supported."),
        ("precision=much", "printoption precision cannot be much"),
        ("suppress=maybe", "printoption suppress is true or false, not maybe"),
    ],
)
def test_wrong_printoptions_are_refused(option, message, capsys):
    assert main.run(["inspect", str(FIXTURE / "ckpt"), "--printoptions", option]) == 2
    assert message in capsys.readouterr().err
