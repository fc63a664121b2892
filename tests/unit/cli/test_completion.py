from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest

import ckptd
from ckptd.cli import completion, main


def asked(monkeypatch, capsys, line, *, shell="bash"):
    """Ask as a shell does after `line` was typed; return what it is offered."""
    words = line.split(" ")
    environ = {completion.VARIABLE: f"{shell}_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert completion.answer(main.cli, environ) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return [answer.partition(",")[2] for answer in captured.out.splitlines() if answer]


@pytest.fixture
def run(tmp_path):
    ckptd.save_checkpoint(str(tmp_path / "run" / "model-1"), {"dense/kernel": np.zeros(2), "dense/bias": np.zeros(2)})
    return tmp_path / "run"


def test_commands_and_options_complete(monkeypatch, capsys):
    assert asked(monkeypatch, capsys, "ckptd ve") == ["verify"]
    assert asked(monkeypatch, capsys, "ckptd ls --js") == ["--json"]


def test_a_place_completes_to_directories_and_checkpoints_but_not_to_their_files(monkeypatch, capsys, run):
    assert asked(monkeypatch, capsys, f"ckptd show {run.parent}/r") == [f"{run}/"]
    assert asked(monkeypatch, capsys, f"ckptd show {run}/") == [f"{run}/model-1"]
    assert asked(monkeypatch, capsys, f"ckptd ls {run}/") == []
    assert asked(monkeypatch, capsys, "ckptd show /nowhere/at/all") == []


def test_a_tensor_completes_by_what_its_checkpoint_holds(monkeypatch, capsys, run):
    assert asked(monkeypatch, capsys, f"ckptd cat {run}/model-1 dense/") == ["dense/bias", "dense/kernel"]
    assert asked(monkeypatch, capsys, f"ckptd cat {run} dense/") == []
    assert asked(monkeypatch, capsys, f"ckptd cat {run}/absent dense/") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_text_for_a_shell_is_one_that_it_can_read(shell, capsys, tmp_path):
    assert main.run(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert completion.VARIABLE in text
    if shutil.which(shell):
        script = tmp_path / "script"
        script.write_text(text)
        subprocess.run([shell, "-n", str(script)], check=True, timeout=120)
