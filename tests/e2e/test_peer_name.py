"""Agents whose addresses are in no certificate, as those of pods: they know each other by one name, `--peer-name`.

The options are those of deploy/kubernetes/hosts. Real processes; a tensor that TensorFlow does not join has parts on
both hosts, so one agent passes its part to the other.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import ckptd
from ckptd.access import token_file, tokens
from ckptd.access.issuing import issue
from ckptd.demo.processes import child_environment
from tests.fakes.waiting import eventually

WAIT_S = 60.0
PEER_NAME = "ckptd-agent.ckptd-agents.svc"
POLICY = """
[[grant]]
to = "token:agents"
runs = "**"
role = "agent"

[[grant]]
to = "token:agents"
runs = "**"
role = "save"

[[grant]]
to = "uid:{uid}"
runs = "**"
role = "admin"
"""


class Cluster:
    """A coordinator and two agents, of which each listens on a loopback address that its certificate does not name."""

    def __init__(self, base: Path) -> None:
        self.base, self.processes = base, list[subprocess.Popen[bytes]]()
        (base / "root").mkdir()
        issue(str(base / "authority"), ["127.0.0.1"], into=str(base / "coordinator"))
        issue(str(base / "authority"), [PEER_NAME], into=str(base / "agents"))
        with token_file.made(str(base / "agents.token"), replaces=False) as write:
            write(tokens.create(str(base / "tokens.json"), "agents"))
        self.policy = ["--tokens", base / "tokens.json", "--policy", base / "policy.toml"]

    def begin(self, name: str, certificate: str, *options: object) -> None:
        files = self.base / certificate
        own = ["--tls-cert", files / "server.crt", "--tls-key", files / "server.key"]
        socket = ["--listen", f"unix://{self.base}/{name}.sock", "--ready-file", self.base / f"{name}.ready"]
        command = ["serve", "--root", self.base / "root", "--listen", "grpcs://127.0.0.1:0", *socket, *own]
        with (self.base / f"{name}.log").open("wb") as log:
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "ckptd", *map(str, (*command, *self.policy, *options))],
                    stdout=log,
                    stderr=log,
                    env=child_environment(),
                )
            )
        ready, process = self.base / f"{name}.ready", self.processes[-1]
        eventually(lambda: ready.exists() or process.poll() is not None, self.told, within_s=WAIT_S)
        assert ready.exists(), self.told()

    def agent(self, name: str, *options: object) -> None:
        towards = ["--ca", self.base / "authority/ca.crt", "--coordinator-token-file", self.base / "agents.token"]
        self.begin(name, "agents", "--role", "agent", "--name", name, *towards, *options)

    def told(self) -> str:
        return "\n".join(f"{path.name}\n{path.read_text()}" for path in sorted(self.base.glob("*.log")))

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait(WAIT_S)


@pytest.fixture
def cluster(tmp_path):
    made = Cluster(tmp_path)
    yield made
    made.end()


def test_agents_reach_each_other_by_a_name_that_all_certificates_have(cluster, tmp_path):

    (tmp_path / "policy.toml").write_text(POLICY.format(uid=os.geteuid()))
    cluster.begin("coordinator", "coordinator", "--role", "coordinator")
    for name in ("a", "b"):
        cluster.agent(name, "--peer-name", PEER_NAME)

    def save(rank: int) -> None:
        address = f"unix://{tmp_path}/{'ab'[rank]}.sock"
        with ckptd.Checkpointer(address, run="r", rank=rank, world_size=2, timeout_s=WAIT_S) as checkpointer:
            part = ckptd.Slice(np.full(1000, rank, np.float16), full_shape=(2000,), start=(rank * 1000,))
            checkpointer.save(1, {"half": part}).result()

    with ThreadPoolExecutor(2) as ranks:
        for saved in [ranks.submit(save, rank) for rank in (0, 1)]:
            try:
                saved.result()
            except ckptd.CkptdError as error:
                pytest.fail(f"{error}\n{cluster.told()}")
    with ckptd.Checkpointer(str(tmp_path / "root"), "r") as checkpointer:
        assert checkpointer.restore()["half"].reshape(2, 1000).tolist() == [[0.0] * 1000, [1.0] * 1000]
