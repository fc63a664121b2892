"""What the compose file gives the daemon and the job for identities, at work: tokens, the policy, the store's key."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import ckptd
from ckptd.access import tokens
from ckptd.cli import main
from ckptd.demo.processes import child_environment
from ckptd.errors import NotPermittedError
from tests.e2e.test_packaging import REPOSITORY
from tests.unit.daemon.conftest import Process

WAIT_S = 120
DEPLOY = REPOSITORY / "deploy"


def make_tokens(where: Path) -> subprocess.CompletedProcess:
    """Run what the compose file runs before the daemon."""
    holders = [f"{name}={where}/{name}.token" for name in ("operator", "train")]
    return subprocess.run(
        [sys.executable, str(DEPLOY / "make_tokens.py"), str(where / "tokens.json"), *holders],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        env=child_environment(),
    )


def test_tokens_are_made_once_and_those_that_were_lost_again(tmp_path):
    assert make_tokens(tmp_path).stdout == "token operator: made\ntoken train: made\n"
    shown = (tmp_path / "train.token").read_text()
    assert (tmp_path / "train.token").stat().st_mode & 0o777 == 0o600
    assert make_tokens(tmp_path).stdout == "token operator: there already\ntoken train: there already\n"
    assert (tmp_path / "train.token").read_text() == shown
    (tmp_path / "train.token").write_text("")
    assert make_tokens(tmp_path).stdout == "token operator: there already\ntoken train: made\n"
    known = tokens.read(str(tmp_path / "tokens.json"))
    assert known.find(shown.strip()) is None
    assert known.find((tmp_path / "train.token").read_text().strip()).name == "train"


def test_a_file_that_is_no_token_file_is_told_and_left_alone(tmp_path):
    (tmp_path / "tokens.json").write_text("{")
    done = make_tokens(tmp_path)
    assert done.returncode == 1
    assert "the tokens cannot be made" in done.stderr
    assert (tmp_path / "tokens.json").read_text() == "{"


def test_the_job_saves_below_its_prefix_and_may_do_nothing_else(tmp_path, capsys):
    make_tokens(tmp_path)
    socket = f"unix://{tmp_path}/s.sock"
    files = [f"--tokens={tmp_path / 'tokens.json'}", f"--policy={DEPLOY / 'policy.toml'}"]
    daemon = Process(tmp_path, "--listen", socket, *files)
    try:
        daemon.ready()
        done = subprocess.run(
            [
                sys.executable,
                str(REPOSITORY / "examples" / "train_numpy.py"),
                socket,
                "--workers=1",
                "--steps=10",
                "--save-every=5",
                f"--token-file={tmp_path / 'train.token'}",
            ],
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            env=child_environment(),
        )
        assert done.returncode == 0, done.stderr
        assert "newest" in done.stdout
        token = (tmp_path / "train.token").read_text().strip()
        for run, shown in (("other/run", token), ("examples/linear", None)):
            with ckptd.Checkpointer(socket, run, token=shown) as ckpt, pytest.raises(NotPermittedError, match="policy"):
                ckpt.latest()
        assert main.run(["health", socket]) == 0  # what the container's own check asks, without a token
        assert main.run(["status", socket, "--token-file", str(tmp_path / "train.token")]) == 0
        assert main.run(["status", socket]) == NotPermittedError.exit_code
        assert main.run(["status", socket, "--token-file", str(tmp_path / "operator.token")]) == 0
        assert "examples/linear" in capsys.readouterr().out
    finally:
        daemon.end()


# Of MinIO's `mc` as far as the script calls it: an administrator, policies, users, and what is attached to whom.
MC = """#!PYTHON -IS
import json, os, sys
from pathlib import Path
place = Path(os.environ["STORE"])
state = json.loads(place.read_text()) if place.exists() else {"policies": {}, "users": {}, "attached": {}}
words = [word for word in sys.argv[1:] if not word.startswith("--")]
if words[:2] == ["alias", "set"]:
    sys.exit(words[2:] != ["store", "http://s3:9000", "root", "r00t secret"])
kind, call, store, *rest = words[1:]
if (kind, call) == ("policy", "create"):
    state["policies"][rest[0]] = json.loads(Path(rest[1]).read_text())
elif (kind, call) == ("user", "add"):
    state["users"][rest[0]] = rest[1]
elif (kind, call) == ("user", "info"):
    print(json.dumps({"accessKey": rest[0], "memberOf": [], "policyName": state["attached"].get(rest[0], "")}))
elif (kind, call) == ("policy", "attach"):
    policy, user = rest
    had = state["attached"].get(user, "").split(",")
    if user not in state["users"] or policy not in state["policies"] or policy in had:
        sys.exit("mc: <ERROR> Unable to make user/group policy association.")
    state["attached"][user] = ",".join(filter(None, [*had, policy]))
else:
    sys.exit(f"unknown: {words}")
place.write_text(json.dumps(state))
"""


def make_key(where: Path, root: str, **more: str) -> subprocess.CompletedProcess:
    program = where / "bin" / "mc"
    program.parent.mkdir(exist_ok=True)
    program.write_text(MC.replace("PYTHON", sys.executable))
    program.chmod(0o755)
    names = {
        "S3_ROOT_USER": "root",
        "S3_ROOT_PASSWORD": "r00t secret",
        "S3_ACCESS_KEY": "daemon",
        "S3_SECRET_KEY": "s3cret",
    }
    return subprocess.run(
        ["sh", str(DEPLOY / "minio" / "make_key"), root],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        env={
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "STORE": str(where / "store.json"),
            "MC_CONFIG_DIR": str(where / "mc"),
            "S3_ENDPOINT_URL": "http://s3:9000",
            **names,
            **more,
        },
    )


def test_the_daemon_s_key_opens_its_bucket_and_nothing_else(tmp_path):
    for _ in range(2):  # compose runs it at each start
        done = make_key(tmp_path, "s3://checkpoints/runs")
        assert (done.returncode, done.stdout) == (0, "key daemon: opens bucket checkpoints\n"), done.stderr
    state = json.loads((tmp_path / "store.json").read_text())
    assert state["users"] == {"daemon": "s3cret"}
    policy = state["policies"][state["attached"]["daemon"]]
    rows = policy["Statement"]
    assert {row["Resource"] for row in rows} == {"arn:aws:s3:::checkpoints", "arn:aws:s3:::checkpoints/*"}
    actions = {action for row in rows for action in row["Action"]}
    assert not [action for action in actions if "*" in action or not action.startswith("s3:")]
    said = (
        (REPOSITORY / "docs" / "buckets.md").read_text().split("The daemon needs these permissions:")[1].split(".")[0]
    )
    needed = {word.strip("` \n,").removeprefix("s3:") for word in said.split("`")[1::2]}
    assert {f"s3:{word}" for word in needed} <= actions
    ceph = runpy.run_path(str(DEPLOY / "ceph" / "make_key.py"))["policy"]("checkpoints")["Statement"]
    assert {row["Resource"] for row in ceph} == {row["Resource"] for row in rows}
    # Ceph's daemon makes no bucket: the bucket is the administrator's.
    assert {action for row in ceph for action in row["Action"]} == actions - {"s3:CreateBucket"}


def test_a_second_bucket_is_opened_by_the_same_key_beside_the_first(tmp_path):
    for bucket in ("one", "two", "one", "two"):
        done = make_key(tmp_path, f"s3://{bucket}/runs")
        assert (done.returncode, done.stdout) == (0, f"key daemon: opens bucket {bucket}\n"), done.stderr
    assert json.loads((tmp_path / "store.json").read_text())["attached"] == {"daemon": "ckptd-one,ckptd-two"}


def test_the_administrator_s_key_is_not_taken_for_the_daemon_s_and_failures_are_failures(tmp_path):
    done = make_key(tmp_path, "s3://checkpoints", S3_ACCESS_KEY="root")
    assert done.returncode == 1
    assert "another than the administrator's" in done.stderr
    assert make_key(tmp_path, "s3://checkpoints", S3_ROOT_PASSWORD="wrong").returncode != 0
    assert not (tmp_path / "store.json").exists()
    done = make_key(tmp_path, "/checkpoints")
    assert (done.returncode, done.stdout) == (0, "/checkpoints is in no bucket: no key to make\n")
