from __future__ import annotations

import subprocess
import sys
import types

import click
import pytest

from ckptd import errors
from ckptd.cli import main

EXIT_CODES = [
    (errors.InvalidRequestError, 2),
    (errors.NotFoundError, 3),
    (errors.ConflictError, 4),
    (errors.SessionAbortedError, 5),
    (errors.UnavailableError, 6),
    (errors.StorageFullError, 7),
    (errors.CorruptionError, 8),
    (errors.NotPermittedError, 9),
]


@pytest.fixture
def pretend(monkeypatch):
    """Return a function that makes `ckptd pretend` do what it is given."""

    def install(action):
        module = types.ModuleType("pretend_command")
        module.command = click.Command("pretend", callback=action)
        monkeypatch.setitem(sys.modules, "pretend_command", module)
        monkeypatch.setitem(main.COMMANDS, "pretend", main.Listed("pretend_command", "Pretend."))

    return install


def raising(error):
    def action():
        raise error

    return action


@pytest.mark.parametrize(("kind", "code"), EXIT_CODES)
def test_each_error_is_one_message_and_its_own_exit_code(kind, code, pretend, capsys):
    error = kind("it is broken", key="m-1.index", offset=7)
    error.add_note("rank 3 saw it")
    pretend(raising(error))
    assert main.run(["pretend"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "ckptd: m-1.index: it is broken at byte 7\n  rank 3 saw it\n"


@pytest.mark.parametrize("arguments", [["--debug", "pretend"], ["pretend", "--debug"]])
def test_debug_shows_the_traceback_wherever_it_stands(arguments, pretend, capsys):
    pretend(raising(errors.NotFoundError("gone")))
    assert main.run(arguments) == 3
    assert "Traceback" in capsys.readouterr().err


def test_anything_else_is_our_bug_and_says_so_without_a_traceback(pretend, capsys):
    pretend(raising(ZeroDivisionError("oops")))
    assert main.run(["pretend"]) == 1
    err = capsys.readouterr().err
    assert "this is a bug in ckptd: ZeroDivisionError: oops" in err
    assert "Traceback" not in err


def test_an_interrupt_ends_like_one(pretend, capsys):
    pretend(raising(KeyboardInterrupt()))
    assert main.run(["pretend"]) == 130
    assert capsys.readouterr().err == "ckptd: interrupted\n"


def test_a_command_may_return_its_exit_code(pretend):
    pretend(lambda: 5)
    assert main.run(["pretend"]) == 5
    pretend(lambda: None)
    assert main.run(["pretend"]) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["verfy"], "did you mean 'verify'"),
        (["xyzzy"], "there are: demo, run, ls"),
        (["ls"], "missing argument 'DIR'"),
        (["ls", "--jsn", "x"], "--json"),
        (["demo", "--workers", "1"], "1 is not in the range"),
    ],
)
def test_wrong_usage_exits_2_with_a_helpful_line(arguments, said, capsys):
    assert main.run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err


def test_every_command_exists_and_explains_itself(capsys):
    for name in main.COMMANDS:
        assert main.run([name, "--help"]) == 0
        assert "--debug" in capsys.readouterr().out


def test_the_version_is_printed(capsys):
    assert main.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("ckptd 0.")


def test_help_does_not_wait_for_numpy_and_grpc():
    program = (
        "import sys; from ckptd.cli.main import run; run(['--help']); "
        "sys.exit(' '.join({'numpy', 'grpc', 'google.protobuf'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "ls" in done.stdout
