"""`ckptd policy check`: who may do what, before a daemon reads it."""

from __future__ import annotations

import json

import pytest

from ckptd.access import tokens
from ckptd.cli import main
from tests.fakes import schemas

TEXT = """
[[grant]]
to = ["token:vision", "cert:vision-1"]
runs = "vision/**"
role = "save"
[[grant]]
to = "token:speech"
runs = ["speech/**", "vision/released/*"]
role = "read"
[[floor]]
runs = "vision/**"
keep_at_least = 2
keep_younger_than_hours = 1.5
[[limit]]
to = "*"
saves = 0
"""


@pytest.fixture
def path(tmp_path):
    written = tmp_path / "policy.toml"
    written.write_text(TEXT)
    return str(written)


def test_it_says_who_may_do_what_and_what_bounds_them(path, tmp_path, capsys):
    tokens.create(str(tmp_path / "tokens.json"), "vision")
    assert main.run(["policy", "check", path, "--tokens", str(tmp_path / "tokens.json")]) == 0
    told = capsys.readouterr()
    rows = [line.split() for line in told.out.splitlines()]
    assert ["token:vision", "save", "vision/**"] in rows
    assert ["floor", "vision/**", "keep_younger_than_hours", "1.5"] in rows
    assert f"{path}: the policy names token:speech, and there is no such token" in told.err
    assert f"{path}: line 14: limit 1 says saves = 0" in told.err


def test_it_says_what_holds_for_one_run_and_for_programs(path, capsys):
    assert main.run(["policy", "check", path, "--run", "vision/released/a", "--json"]) == 0
    told = schemas.check("policy", json.loads(capsys.readouterr().out))
    assert [(each["identity"], each["role"]) for each in told["grants"]] == [
        ("cert:vision-1", "save"),
        ("token:speech", "read"),
        ("token:vision", "save"),
    ]
    assert main.run(["policy", "check", path, "--run", "audio"]) == 0
    assert "no identity may do anything to audio" in capsys.readouterr().out


def test_what_a_daemon_would_refuse_is_refused(path, capsys):
    with open(path, "a") as file:
        file.write("[[floor]]\nruns = 'a'\n")
    assert main.run(["policy", "check", path]) == 2
    assert "line 17: floor 2: it keeps nothing" in capsys.readouterr().err
    assert main.run(["policy", "check", path + ".absent"]) == 3
    assert main.run(["policy", "check", path, "--run", "/a"]) == 2
