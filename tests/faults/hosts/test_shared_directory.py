"""A directory that several hosts mount, each at a path of its own: mount namespaces stand for the hosts.

A lock of one host is imitated by a lock file of the host's own, mounted over that of the directory; caches that are
late, and another directory at the same path, by a copy of it.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

import ckptd
from tests.e2e.saving_worker import value_of
from tests.fakes.waiting import eventually
from tests.faults.hosts.network import Host, Network, needs_root
from tests.faults.hosts.world import WAIT_S, Process

COUNT = 1000
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Sharing:
    """Hosts that mount one directory, and what runs on them, on sockets below `base`."""

    def __init__(self, base: Path) -> None:
        self.base, self.root, self.network = base, base / "root", Network()
        self.root.mkdir()
        self.processes: dict[str, Process] = {}
        self.ranks: list[Process] = []

    def host(self, name: str, sees: Path | None = None) -> Host:
        """Return a new host that mounts the directory, or what it `sees` in its place; its kernel is another one."""
        host, boot = self.network.host(name), self.base / f"boot-{name}"
        self.at(name).mkdir()
        host.bind(sees or self.root, self.at(name))
        boot.write_text(f"{uuid.uuid4()}\n")
        host.bind(boot, BOOT_ID)
        return host

    def at(self, name: str) -> Path:
        return self.base / f"at-{name}"

    def has_own_locks(self, name: str) -> None:
        """Let the locks of a host be known to no other."""
        for lock in (".lock.ckptd-lock", ".shared-trial.ckptd-lock"):
            own = self.base / f"{name}{lock}"
            own.touch()
            self.network.hosts[name].bind(own, self.at(name) / ".ckptd" / lock)

    def address(self, name: str) -> str:
        return f"unix://{self.base}/{name}.sock"

    def begin(self, name: str, *role: str) -> Process:
        """Start a daemon on the host of its name."""
        ready = self.base / f"{name}.ready"
        where = ["--root", self.at(name), "--listen", self.address(name), "--ready-file", ready]
        process = Process(self.base, self.network.hosts[name], name, "ckptd", "serve", *role, *where, environment={})
        self.processes[name] = process
        return process

    def coordinator(self, name: str) -> Process:
        process = self.begin(name, "--role", "coordinator", "--shared-directory", "--declare-timeout-s", f"{WAIT_S}")
        self.wait_until_ready(name)
        return process

    def agent(self, name: str) -> Process:
        return self.begin(name, "--role", "agent", "--name", name)

    def wait_until_ready(self, name: str) -> None:
        process, ready = self.processes[name], self.base / f"{name}.ready"
        eventually(lambda: ready.exists() or not process.is_alive, process.told, within_s=WAIT_S)
        assert ready.exists(), process.told()

    def save(self, step: int) -> None:
        for rank in self.ranks:
            rank.write(f"{step} {COUNT}")

    def answers(self) -> list[str]:
        return [rank.says() for rank in self.ranks]

    def latest(self) -> int | None:
        """Return what the state file says to every program, after it was read whole."""
        with ckptd.Checkpointer(str(self.root), "r") as checkpointer:
            found = checkpointer.restore()
            latest = checkpointer.latest()
        assert latest is not None
        for rank in range(len(self.ranks)):
            assert (found["w"][rank * COUNT : (rank + 1) * COUNT] == value_of(latest.step, rank)).all()
        return latest.step

    def end(self) -> None:
        for process in [*self.ranks, *self.processes.values()]:
            process.kill()
        self.network.close()


@pytest.fixture(scope="module")
def hosts() -> Iterator[Sharing]:
    needs_root()
    with tempfile.TemporaryDirectory(prefix="ckptd-") as base:
        sharing = Sharing(Path(base))
        try:
            for name in ("c", "a", "b"):
                sharing.host(name)
            sharing.coordinator("c")
            for rank, name in enumerate("ab"):
                sharing.agent(name)
                sharing.wait_until_ready(name)
                arguments = ["rank", sharing.address(name), "r", rank, 2, 20]
                host = sharing.network.hosts[name]
                sharing.ranks.append(Process(sharing.base, host, f"rank-{rank}", *arguments, environment={}))
            assert sharing.answers() == ["ready"] * 2
            yield sharing
        finally:
            sharing.end()


def test_hosts_that_mount_one_directory_save_together(hosts: Sharing) -> None:
    hosts.save(1)
    assert hosts.answers() == ["saved"] * 2
    assert hosts.latest() == 1


def test_a_host_whose_locks_or_files_are_of_its_own_is_refused_by_name_and_directory(hosts: Sharing) -> None:
    hosts.host("locks")
    hosts.has_own_locks("locks")
    copy = hosts.base / "copy"
    shutil.copytree(hosts.root, copy)
    hosts.host("late", sees=copy)
    locks, late = hosts.agent("locks"), hosts.agent("late")
    words = f"the agent on locks cannot share {hosts.at('c')} with its coordinator: it gets a lock in "
    eventually(lambda: words in locks.told(), locks.told, within_s=WAIT_S)
    words = f"the agent on late does not share {hosts.at('c')} with its coordinator: for 10 s what it wrote at "
    eventually(lambda: words in late.told(), late.told, within_s=WAIT_S)
    for agent in (locks, late):
        agent.popen.kill()
    hosts.save(2)
    assert hosts.answers() == ["saved"] * 2


def test_a_coordinator_that_was_paused_as_it_published_wakes_up_without_effect(hosts: Sharing) -> None:
    """The second one is on a host whose locks know nothing of the first one's."""
    former = hosts.processes["c"]
    former.arm("step.publish.state")
    hosts.save(3)
    former.comes_to("step.publish.state")
    hosts.host("d")
    hosts.has_own_locks("d")
    hosts.coordinator("d")
    assert hosts.answers() == ["saved"] * 2
    hosts.save(4)
    assert hosts.answers() == ["saved"] * 2
    state = (hosts.root / "r/checkpoint").read_bytes()
    former.go_on()
    assert former.popen.wait(WAIT_S) == 4, former.told()
    assert (hosts.root / "r/checkpoint").read_bytes() == state
    assert hosts.latest() == 4
    hosts.save(5)
    assert hosts.answers() == ["saved"] * 2
    assert hosts.latest() == 5
