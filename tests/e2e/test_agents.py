"""Three hosts, each with an agent and two ranks, and a coordinator, as processes that save and are killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

import grpc
import pytest

import ckptd
from ckptd.demo.processes import child_environment
from ckptd.wire import methods
from ckptd.wire.v1 import admin_pb2
from tests.e2e.crew import Crew
from tests.e2e.saving_worker import value_of
from tests.fakes.waiting import eventually
from tests.starts import prepared

HOSTS = "abc"
WAIT_S = 80.0
LEASE_S, AGENT_LEASE_S = 8.0, 15.0  # a busy machine takes seconds to start a process
COUNT = 5000


class Hosts:
    """The processes, on sockets of their own below `base`."""

    program = "ckptd"

    def __init__(self, base: Path, root: Path, agent_lease_s: float = AGENT_LEASE_S) -> None:
        self.base, self.root, self.agent_lease_s = base, root, agent_lease_s
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.start("coordinator")
        for host in HOSTS:
            self.start(host)
        self.crew = Crew([self.address(HOSTS[rank // 2]) for rank in range(6)], "r", 6, 20, base / "ranks.log")

    def address(self, name: str) -> str:
        return f"unix://{self.base}/{name}.sock"

    def start(self, name: str) -> None:
        ready, log = self.base / f"{name}.ready", self.base / f"{name}.log"
        ready.unlink(missing_ok=True)
        role = ["--role", "agent", "--name", name, "--coordinator", self.address("coordinator")]
        if name == "coordinator":
            role = ["--role", "coordinator", "--agent-lease-s", str(self.agent_lease_s)]
        bounds = ["--lease-s", str(LEASE_S), "--declare-timeout-s", str(WAIT_S)]
        where = ["--root", str(self.root), "--listen", self.address(name), "--ready-file", str(ready)]
        with log.open("ab") as out:
            process = self.launch(name, [sys.executable, "-m", self.program, "serve", *role, *where, *bounds], out)
        self.processes[name] = process
        eventually(lambda: ready.exists() or process.poll() is not None, log.read_text, within_s=WAIT_S)
        assert ready.exists(), log.read_text()

    def launch(self, name: str, command: list[str], out: IO[bytes]) -> subprocess.Popen[bytes]:
        return prepared.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=child_environment())

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait(WAIT_S)

    def waiting_for(self) -> str:
        with grpc.insecure_channel(f"unix:{self.base}/coordinator.sock") as channel:
            status = methods.Stub(channel, methods.ADMIN).Status(admin_pb2.StatusRequest(), timeout=WAIT_S)
        return "; ".join(each for run in status.runs for save in run.saves for each in save.waiting_for)

    def begin_without_c(self, step: int, half: str = "") -> None:
        """Begin a save for which all ranks have declared, and let the agent on c be paused before it is told."""
        self.crew.save(step, COUNT, range(1, 6), half)
        eventually(lambda: self.waiting_for().startswith("rank 0 of 6 to declare"), self.waiting_for, within_s=WAIT_S)
        self.processes["c"].send_signal(signal.SIGSTOP)
        self.crew.save(step, COUNT, [0], half)

    def hold(self, step: int) -> None:
        """Bring a save to where the agents on a and b have given receipts, and that on c is paused before it writes."""
        self.begin_without_c(step)
        shards = [self.root / f"r/model.ckpt-{step}.data-0000{shard}-of-00003" for shard in (0, 1)]
        eventually(lambda: all(shard.exists() for shard in shards), "the shards of a and b", within_s=WAIT_S)
        eventually(
            lambda: "rank 0" not in self.waiting_for() and "rank 2" not in self.waiting_for(),
            "the receipts",
            within_s=WAIT_S,
        )

    def go_on(self) -> None:
        self.processes["c"].send_signal(signal.SIGCONT)

    def check(self, step: int, count: int = COUNT) -> None:
        """Read a step back, as any reader does."""
        with ckptd.Checkpointer(str(self.root), "r") as checkpointer:
            found = checkpointer.restore(step)
        w = found["w"]
        for rank in range(6):
            assert (w[rank * count : (rank + 1) * count] == value_of(step, rank)).all()

    def end(self) -> None:
        self.crew.end()
        for process in self.processes.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(WAIT_S)
            finally:
                process.kill()


@pytest.fixture(scope="module")
def hosts():
    with tempfile.TemporaryDirectory(prefix="ckptd-") as base:
        root = Path(base) / "root"
        root.mkdir()
        running = Hosts(Path(base), root)
        try:
            yield running
        finally:
            running.end()


def test_hosts_save_together(hosts):
    hosts.crew.save(1, COUNT)
    assert hosts.crew.answers(WAIT_S) == ["saved"] * 6
    hosts.check(1)
    names = sorted(path.name for path in (hosts.root / "r").glob("model.ckpt-1.data*"))
    assert names == [f"model.ckpt-1.data-0000{shard}-of-00003" for shard in range(3)]


def test_a_coordinator_that_is_killed_between_receipts_and_index_goes_on_after_its_restart(hosts):
    hosts.hold(2)
    before = {path: path.stat().st_ino for path in (hosts.root / "r").glob("model.ckpt-2.data*")}
    hosts.kill("coordinator")
    hosts.start("coordinator")
    hosts.go_on()
    assert hosts.crew.answers(WAIT_S) == ["saved"] * 6
    hosts.check(2)
    assert {path: path.stat().st_ino for path in before} == before  # what is sealed is not written again


def test_an_agent_that_is_killed_after_its_receipt_is_not_needed(hosts):
    hosts.hold(3)
    hosts.kill("a")
    hosts.go_on()
    eventually(lambda: (hosts.root / "r/model.ckpt-3.index").exists(), "the index", within_s=WAIT_S)
    hosts.start("a")
    assert hosts.crew.answers(WAIT_S) == ["saved"] * 6
    hosts.check(3)


def test_an_agent_that_is_killed_before_its_seal_goes_on_when_it_is_back(hosts):
    hosts.hold(4)
    hosts.kill("c")
    hosts.start("c")
    assert hosts.crew.answers(WAIT_S) == ["saved"] * 6
    hosts.check(4)


def test_an_agent_that_is_killed_before_its_seal_and_stays_away_ends_the_save_by_name(hosts):
    hosts.hold(5)
    hosts.kill("c")
    answers = hosts.crew.answers_of(range(4), WAIT_S)
    assert all("agent on c is gone" in answer and "ranks 4-5 owed 40.0 kB" in answer for answer in answers), answers
    # What is begun while it is gone ends at once, for a rank that declares late as well.
    hosts.crew.save(6, COUNT, range(1, 4))
    answers = hosts.crew.answers_of(range(1, 4), WAIT_S)
    hosts.crew.save(6, COUNT, [0])
    answers += hosts.crew.answers_of([0], WAIT_S)
    assert all("agent on c is gone" in answer and "ranks 4-5 had not declared" in answer for answer in answers), answers
    assert not list((hosts.root / "r").glob("model.ckpt-[56].index"))
    hosts.start("c")
    late = hosts.crew.answers_of((4, 5), WAIT_S)
    assert all("step 5 of r was aborted: the agent on c is gone" in answer for answer in late), late
    hosts.crew.save(7, COUNT)
    assert hosts.crew.answers(WAIT_S) == ["saved"] * 6
    hosts.check(7)


def test_a_coordinator_and_an_agent_that_are_killed_at_one_moment_go_on(hosts):
    # Neither knows any more which ranks there are, and one of them has not declared.
    hosts.crew.save(8, COUNT, range(5))
    eventually(lambda: hosts.waiting_for().startswith("rank 5 of 6 to declare"), hosts.waiting_for, within_s=WAIT_S)
    hosts.kill("coordinator")
    hosts.kill("c")
    hosts.start("coordinator")
    hosts.start("c")
    hosts.crew.save(8, COUNT, [5])
    assert hosts.crew.answers(WAIT_S) == ["saved"] * 6
    hosts.check(8)
    hosts.hold(9)
    shard = hosts.root / "r/model.ckpt-9.data-00000-of-00003"
    before = shard.stat().st_ino
    hosts.kill("coordinator")
    hosts.kill("a")
    hosts.start("coordinator")
    hosts.start("a")
    hosts.go_on()
    assert hosts.crew.answers(WAIT_S) == ["saved"] * 6
    hosts.check(9)
    assert shard.stat().st_ino == before


def test_an_agent_that_cannot_listen_does_not_take_the_place_of_the_one_that_does(hosts):
    command = [sys.executable, "-m", "ckptd", "serve", "--role", "agent", "--name", "b", "--root", str(hosts.root)]
    where = ["--listen", hosts.address("b"), "--coordinator", hosts.address("coordinator")]
    second = subprocess.run([*command, *where], capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert second.returncode == 4
    assert "another daemon listens on" in second.stderr
    hosts.crew.save(30, COUNT)
    assert hosts.crew.answers(WAIT_S) == ["saved"] * 6
    hosts.check(30)


def test_an_agent_ends_when_another_of_its_name_has_taken_over(hosts):
    """As when two hosts were given one name: the ranks of the former hear that no agent is there, and wait for none."""
    former = hosts.processes["b"]
    log = (hosts.base / "other.log").open("ab")
    role = ["--role", "agent", "--name", "b", "--coordinator", hosts.address("coordinator")]
    where = ["--root", str(hosts.root), "--listen", hosts.address("other")]
    with log:
        other = hosts.launch("other", [sys.executable, "-m", "ckptd", "serve", *role, *where], log)
    try:
        assert former.wait(WAIT_S) == 4
        assert "another agent of the name b attends" in (hosts.base / "b.log").read_text()
    finally:
        other.kill()
        other.wait(WAIT_S)
    hosts.start("b")
    hosts.crew.save(31, COUNT)
    assert hosts.crew.answers(WAIT_S) == ["saved"] * 6
    hosts.check(31)


def test_a_rank_that_is_killed_before_it_declares_is_named(hosts):
    hosts.crew.save(10, COUNT, range(5))
    hosts.crew.kill(5)
    answers = hosts.crew.answers_of(range(5), WAIT_S)
    assert all("rank 5" in answer for answer in answers), answers
