"""Agents with TLS, tokens and the role `agent` alone: they save for their ranks, and no one else speaks for a host."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import trustme

import ckptd
from ckptd.access import tokens
from ckptd.errors import NotPermittedError
from tests.fakes.waiting import eventually

POLICY = """
[[grant]]
to = ["token:h1", "token:h2"]
runs = "team/**"
role = "agent"
hosts = "own"

[[floor]]
runs = "team/**"
keep_at_least = 2
"""


def ckptd_of(command, checkpoint, address):
    """Run a command at an agent; return its exit code, and what it says went wrong."""
    arguments = [sys.executable, "-m", "ckptd", command, checkpoint, "--address", address]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stderr


@pytest.fixture
def hosts(serve, tmp_path):
    """A coordinator that knows h1 and h2, and what starts an agent with the token of either."""
    authority, known = trustme.CA(), str(tmp_path / "tokens.json")
    for name in ("h1", "h2"):
        (tmp_path / name).write_text(tokens.create(known, name))
        (tmp_path / name).chmod(0o600)
    (tmp_path / "policy.toml").write_text(POLICY)
    made = authority.issue_cert("127.0.0.1")
    made.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    for part in made.cert_chain_pems:
        part.write_to_path(str(tmp_path / "cert.pem"), append=True)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    def coordinate(name):
        identities = ("--tokens", known, "--policy", f"{tmp_path}/policy.toml", "--audit-log", f"{tmp_path}/audit")
        tls = ("--tls-cert", f"{tmp_path}/cert.pem", "--tls-key", f"{tmp_path}/key.pem")
        return serve("--role", "coordinator", "--listen", "grpcs://127.0.0.1:0", *tls, *identities, name=name).ready()

    with tempfile.TemporaryDirectory(prefix="ckptd-") as sockets:

        def attend(name, *, token):
            address = f"unix://{sockets}/{name}-{token}.sock"
            shown = ("--ca", f"{tmp_path}/ca.pem", "--coordinator-token-file", f"{tmp_path}/{token}")
            where = ("--listen", address, "--name", name)
            return serve("--role", "agent", *where, *shown, name=f"{name}-{token}").ready(), address

        yield coordinate, attend


def test_the_role_of_agents_is_enough_to_save_read_pin_and_delete_for_ranks_and_for_no_more(hosts):
    coordinate, attend = hosts
    coordinate("c")
    agent, address = attend("h1", token="h1")
    agent.wait_for_log("attends the coordinator")
    with ckptd.Checkpointer(address, "team/r", rank=0, world_size=1) as checkpointer:
        for step in (1, 2, 3):
            checkpointer.save(step, {"w": np.full(1000, step, np.float32)}).wait()
        assert checkpointer.latest().step == 3
        assert (checkpointer.restore(2)["w"] == 2).all()
    assert ckptd_of("pin", "team/r/model.ckpt-1", address) == (0, "")
    code, said = ckptd_of("rm", "team/r/model.ckpt-2", address)  # of the two that the coordinator's policy keeps
    assert (code, "keep" in said) == (NotPermittedError.exit_code, True), said
    code, said = ckptd_of("unpin", "team/r/model.ckpt-1", address)  # the agent's policy would allow it
    assert (code, "token:h1 may not manage run 'team/r'" in said) == (NotPermittedError.exit_code, True), said


def test_another_identity_is_not_the_agent_of_a_host_whatever_the_coordinator_has_forgotten(hosts, tmp_path):
    coordinate, attend = hosts
    first = coordinate("c")
    first.process.send_signal(signal.SIGTERM)
    assert first.wait() == 0
    coordinate("c2")  # it has heard nothing of h1
    hostile, _ = attend("h1", token="h2")
    hostile.wait_for_log("token:h2 is not the agent of h1: the policy gives it other hosts")
    lines = lambda: [json.loads(line) for line in Path(tmp_path / "audit").read_text().splitlines()]  # noqa: E731
    eventually(lambda: any(each["event"] == "refusal" for each in lines()), lines)
    refused = next(each for each in lines() if each["event"] == "refusal")
    assert refused["identity"] == "token:h2"
    agent, _ = attend("h1", token="h1")
    agent.wait_for_log("attends the coordinator")


def test_a_rank_of_a_run_that_the_agents_role_is_not_for_is_refused(hosts):
    coordinate, attend = hosts
    coordinate("c")
    _, address = attend("h1", token="h1")
    with (
        pytest.raises(NotPermittedError, match="token:h1 may not write for run 'other/r'"),
        ckptd.Checkpointer(address, "other/r", rank=0, world_size=1) as checkpointer,
    ):
        checkpointer.save(1, {"w": np.zeros(10, np.float32)}).wait()
