"""Commands for a run that a daemon serves: no access to its files is needed, only what the policy gives."""

from __future__ import annotations

import json

import numpy as np
import pytest

import ckptd
from ckptd.access import tokens
from ckptd.access.policy import parse
from ckptd.access.tokens import Token, Tokens
from ckptd.cli import main
from ckptd.service.gate import Access
from tests.fakes import schemas
from tests.unit.client.served import Daemon

RUN = "vision/a"
GRANTS = [
    {"to": "token:vision", "runs": "vision/**", "role": "save"},
    {"to": "token:looker", "runs": "vision/*", "role": "read"},
    {"to": "token:root", "runs": "**", "role": "admin"},
    {"to": "token:keeper", "runs": "vision/*", "role": "manage"},
]
SECRETS = {name: f"{tokens.PREFIX}{name}" for name in ("vision", "looker", "keeper", "root")}
KNOWN = Tokens({name: Token(name, tokens.hash_of(secret), 0.0) for name, secret in SECRETS.items()})


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    """Give a daemon with a run of three checkpoints."""
    running = Daemon(
        tmp_path_factory.mktemp("served") / "root", access=Access(tokens=KNOWN, policy=parse({"grant": GRANTS}))
    )
    with ckptd.Checkpointer(running.address, RUN, token=SECRETS["vision"]) as ckpt:
        for step in (1, 2, 3):
            ckpt.save(step, {"w": np.arange(4.0) * step, "step": np.array(step)}).result()
    yield running
    running.stop()


@pytest.fixture
def ask(daemon, tmp_path, monkeypatch, capsys):
    """Runs one command as one identity, elsewhere; returns what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(line, identity="looker", code=0):
        (tmp_path / "token").write_text(SECRETS[identity])
        (tmp_path / "token").chmod(0o600)
        words = [*line.split(), "--address", daemon.address, "--token-file", str(tmp_path / "token")]
        assert main.run(words) == code, capsys.readouterr().err
        told = capsys.readouterr()
        return told.err if code else told.out

    return run


def test_what_reads_a_checkpoint_reads_it_through_the_daemon(ask, tmp_path):
    listed = schemas.check("ls", json.loads(ask(f"ls {RUN} --json")))
    assert [(each["step"], each["listed"]) for each in listed["checkpoints"]] == [(1, True), (2, True), (3, True)]
    assert listed["latest"].endswith("/root/vision/a/model.ckpt-3")
    assert ask(f"ls {RUN}").splitlines()[3].endswith("latest")
    assert ask(f"latest {RUN}") == listed["latest"] + "\n"
    shown = schemas.check("show", json.loads(ask(f"show {RUN} --json")))
    assert [each["name"] for each in shown["tensors"]] == ["step", "w"]
    assert "[0. 2. 4. 6.]" in ask(f"cat {RUN}/model.ckpt-2.index w")
    assert ask(f"verify {RUN}").count("every checksum verifies") == 3
    ask(f"cp {RUN}/model.ckpt-2 {tmp_path}/copy-2")
    assert ckptd.load_variable(str(tmp_path / "copy-2"), "w")[3] == 6
    ask(f"export {RUN} {tmp_path}/w.npz")
    assert "w" in ask(f"diff {RUN}/model.ckpt-1 w.npz")


def test_what_the_policy_does_not_give_is_refused_with_the_role_that_is_needed(ask):
    assert "token:looker may not read run 'audio'" in ask("ls audio", code=9)
    assert "needs the role `save` or `manage`" in ask(f"pin {RUN}/model.ckpt-1", code=9)
    assert "needs the role `manage`" in ask(f"undelete {RUN}/model.ckpt-1", code=9)
    assert "needs the role `manage`" in ask(f"rm {RUN}/model.ckpt-1 --for-good", "vision", code=9)


LINES = (
    "ls {run}",
    "latest {run}",
    "show {run}/model.ckpt-1",
    "cat {run}/model.ckpt-1",
    "verify {run}",
    "cp {run}/model.ckpt-1 copy-1",
    "export {run} w.npz",
    "diff {run}/model.ckpt-1 {run}/model.ckpt-2",
    "pin {run}/model.ckpt-1",
    "rm {run}/model.ckpt-1",
    "undelete {run}/model.ckpt-1",
    "prune {run} --keep 1",
    "repair {run}",
    "evict {run}",
)


@pytest.mark.parametrize(
    ("run", "secret", "is_there", "code"),
    [
        ("vision/none", SECRETS["root"], True, 3),
        ("vision/a", "wrong", True, 9),
        ("audio/a", SECRETS["looker"], True, 9),
        ("vision/a", SECRETS["root"], False, 6),
        ("vision//a", SECRETS["root"], True, 2),
    ],
)
def test_each_kind_of_failure_has_its_exit_code_in_every_command(
    daemon, tmp_path, monkeypatch, run, secret, is_there, code
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CKPTD_TOKEN", secret)
    address = daemon.address if is_there else "127.0.0.1:1"
    lines = LINES[::4] if secret == "wrong" else LINES  # more refusals than ten are late
    ends = {line: main.run([*line.format(run=run).split(), "--address", address]) for line in lines}
    assert ends == dict.fromkeys(lines, code)


def test_what_is_not_there_is_told_with_the_newest(ask):
    assert "no checkpoint in run 'vision/b'" in ask("show vision/b", "vision", code=3)
    assert "no checkpoint 'model.ckpt-9' in run 'vision/a'; the newest there is" in ask(
        f"cat {RUN}/model.ckpt-9", code=3
    )
    assert "no checkpoint has been published in 'vision/b' by the daemon" in ask("latest vision/b", "vision", code=3)


def test_what_changes_one_checkpoint_needs_no_access_to_its_files(ask):
    assert ask(f"pin {RUN}/model.ckpt-1", "keeper").endswith("model.ckpt-1 is pinned\n")
    assert "pinned" in ask(f"ls {RUN}")
    ask(f"unpin {RUN}/model.ckpt-1", "keeper")
    ask(f"rm {RUN}/model.ckpt-1", "keeper")
    assert "model.ckpt-1" not in ask(f"ls {RUN}")
    assert "is back" in ask(f"undelete {RUN}/model.ckpt-1", "keeper")


def test_the_command_that_deletes_for_good_does_not_keep_the_checkpoint_from_it_by_reading(ask, daemon):
    with ckptd.Checkpointer(daemon.address, "vision/gone", token=SECRETS["vision"]) as ckpt:
        for step in (1, 2):
            ckpt.save(step, {"w": np.arange(4.0)}).result()
    assert "deleted" in ask("rm --for-good vision/gone/model.ckpt-1", "keeper")


def test_a_run_is_pruned_and_repaired_through_its_daemon(ask, daemon):
    with ckptd.Checkpointer(daemon.address, "vision/old", token=SECRETS["vision"]) as ckpt:
        for step in (1, 2, 3):
            ckpt.save(step, {"w": np.arange(4.0)}).result()
    told = schemas.check("prune", json.loads(ask("prune vision/old --keep 2 --json", "keeper")))
    assert [each["action"] for each in told["checkpoints"]] == ["delete", "keep", "keep"]
    assert told["num_deleted"] == 1
    state = daemon.root / "vision" / "old" / "checkpoint"
    state.unlink()
    assert "written anew" in ask("repair vision/old", "keeper")
    assert state.exists()
    assert "needs the role `manage`" in ask("repair vision/old", code=9)


def test_the_environment_s_daemon_serves_what_is_not_here(daemon, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CKPTD_ADDRESS", daemon.address)
    monkeypatch.setenv("CKPTD_TOKEN", SECRETS["looker"])
    assert main.run(["latest", RUN]) == 0
    assert main.run(["ls", "visoin/a"]) == 9
    assert "there is no such path here" in capsys.readouterr().err
    ckptd.save_checkpoint(str(tmp_path / "vision" / "a" / "own-7"), {"w": np.zeros(1)})
    assert main.run(["ls", RUN]) == 0
    assert "own-7" in capsys.readouterr().out
