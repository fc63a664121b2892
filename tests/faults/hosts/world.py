"""Hosts with agents and ranks, a coordinator on a host of its own, and a store: started, broken, healed and checked."""

from __future__ import annotations

import json
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from ckptd.demo.processes import child_environment
from tests.e2e.killing import left_over
from tests.e2e.saving_worker import value_of
from tests.fakes.waiting import eventually
from tests.faults.hosts import mutants
from tests.faults.hosts.network import Host, Network
from tests.faults.hosts.stores import Directory, Shared, files_of, listed
from tests.faults.hosts.traps import Traps, stop
from tests.starts import prepared

RUN = "r"
_RECORD = re.compile(r"\.ckptd/model\.ckpt-\d+\.[0-9a-f]+\.json")
WAIT_S = 120.0
PORT = 7000


class Process:
    """One process on a host, with traps of its own and what it has said."""

    def __init__(
        self, base: Path, host: Host, name: str, program: str, *arguments: object, environment: Mapping[str, str]
    ) -> None:
        self.name, self.host, self.log = name, host, base / f"{name}.log"
        self.traps = Traps(base / f"{name}.traps")
        self.traps.arm("none")
        command = [sys.executable, "-m", "tests.faults.hosts.program", host.holder, self.traps.directory, program]
        with self.log.open("ab") as errors:
            self.popen: subprocess.Popen[str] = prepared.Popen(
                list(map(str, [*command, *arguments])),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=child_environment() | dict(environment),
            )
        self._said: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.popen.stdout is not None
        with self.popen.stdout as lines:
            for line in lines:
                self._said.put(line.rstrip("\n"))
        self._said.put("")

    def says(self, timeout_s: float = WAIT_S) -> str:
        """Return the next line; "" is from the dead."""
        try:
            return self._said.get(timeout=timeout_s)
        except queue.Empty:
            raise AssertionError(f"{self.name} says nothing for {timeout_s:g} s:\n{self.told()}") from None

    def write(self, line: str) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(f"{line}\n")
        self.popen.stdin.flush()

    def told(self) -> str:
        """Return the end of its log."""
        return self.log.read_text("utf-8", "replace")[-3000:]

    @property
    def is_alive(self) -> bool:
        return self.popen.poll() is None

    def arm(self, point: str) -> None:
        self.traps.arm(point)

    def comes_to(self, point: str, within_s: float = WAIT_S) -> None:
        """Wait until it stands still there."""

        def told() -> str:
            return f"{self.name} at {point}\n{self.told()}"

        eventually(lambda: self.traps.has_stopped(point, self.popen.pid), told, within_s=within_s)

    def stop(self) -> None:
        stop(self.popen.pid)

    def go_on(self) -> None:
        if self.is_alive:
            self.popen.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait(WAIT_S)

    def end(self) -> None:
        """Let it end in order; it is killed if it does not."""
        with suppress(OSError):
            assert self.popen.stdin is not None
            self.popen.stdin.close()
        self.go_on()
        if not self.name.startswith("rank"):
            self.popen.terminate()
        try:
            self.popen.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()


class World:
    """See the module. The ranks are numbered host by host."""

    def __init__(
        self,
        base: Path,
        network: Network,
        shared: Shared,
        *,
        lease_s: float,
        without: str = "",
        patience_s: float = WAIT_S,
    ) -> None:
        """Start all. `without`: see `mutants`. `patience_s`: after that time at the latest nothing is left over."""
        self.environment = dict(shared.environment) | ({mutants.VARIABLE: without} if without else {})
        self.patience_s = patience_s
        self.base, self.network, self.shared, self.lease_s = base, network, shared, lease_s
        self.hosts, self.num_ranks = "ab", 4
        self.processes: dict[str, Process] = {}
        self._started: list[Process] = []
        self.step, self.acknowledged = 0, [0]
        self.went_back: list[str] = []
        self._over = threading.Event()
        for name in (*self.hosts, "k", "l"):
            host = network.host(name)
            (base / name).mkdir()
            if isinstance(shared, Directory):
                host.bind(*shared.mounts)
        self.start_coordinator()
        for name in self.hosts:
            self.start_agent(name)
        self.start_ranks()
        self._watch = threading.Thread(target=self._watch_state, daemon=True)
        self._watch.start()

    # Starting

    def start(self, host: str, name: str, program: str, *arguments: object) -> Process:
        """Start a program on a host; in place of one that had the same name."""
        where = self.network.hosts[host]
        process = Process(self.base, where, name, program, *arguments, environment=self.environment)
        self.processes[name] = process
        self._started.append(process)
        return process

    def serve(self, host: str, name: str, address: str, *role: object) -> Process:
        """Start ``ckptd serve`` in a role; returns when it is ready."""
        ready = self.base / f"{name}.ready"
        ready.unlink(missing_ok=True)
        where = ["--root", self.shared.url, "--listen", address, "--ready-file", ready]
        bounds = ["--lease-s", 3, "--declare-timeout-s", 5 * self.lease_s]
        process = self.start(host, name, "ckptd", "serve", *where, *bounds, *role)
        eventually(lambda: ready.exists() or not process.is_alive, process.told, within_s=WAIT_S)
        assert ready.exists(), process.told()
        return process

    def start_coordinator(self, on: str = "k") -> Process:
        """Start one, on the host k or l."""
        self.coordinator_address = f"{self.network.hosts[on].address}:{PORT}"
        role = ["--role", "coordinator", "--agent-lease-s", self.lease_s, "--insecure-loopback"]
        self.coordinator = self.serve(on, f"coordinator-{on}", self.coordinator_address, *role)
        return self.coordinator

    def agent_address(self, host: str) -> str:
        """Return where its ranks find the agent of a host."""
        return f"unix://{self.base}/{host}/a.sock"

    def start_agent(self, host: str) -> Process:
        """Start the agent of a host, which looks up in the store where its coordinator is."""
        for path in (self.base / host).glob("a.sock*"):
            path.unlink()  # of one that hangs
        return self.serve(host, f"agent-{host}", self.agent_address(host), "--role", "agent", "--name", host)

    def host_of(self, rank: int) -> str:
        return self.hosts[rank * len(self.hosts) // self.num_ranks]

    def ranks_of(self, host: str) -> list[int]:
        return [rank for rank in range(self.num_ranks) if self.host_of(rank) == host]

    def start_ranks(self) -> None:
        for rank in range(self.num_ranks):
            host = self.host_of(rank)
            self.start(host, f"rank-{rank}", "rank", self.agent_address(host), RUN, rank, self.num_ranks, 3)
        for rank in range(self.num_ranks):
            assert self.rank(rank).says() == "ready", self.rank(rank).told()

    def agent(self, host: str) -> Process:
        return self.processes[f"agent-{host}"]

    def rank(self, rank: int) -> Process:
        return self.processes[f"rank-{rank}"]

    # Saving

    def save(self, count: int = 5000, ranks: Iterable[int] | None = None) -> int:
        """Let ranks save the next step; it is the same for all that are told until `answers`."""
        self.step += 1
        self.save_same(count, range(self.num_ranks) if ranks is None else ranks)
        return self.step

    def save_same(self, count: int, ranks: Iterable[int]) -> None:
        for rank in ranks:
            with suppress(BrokenPipeError):
                self.rank(rank).write(f"{self.step} {count}")

    def answers(self, ranks: Iterable[int] | None = None) -> list[str]:
        """Wait until each has said what became of the step."""
        told = [self.rank(rank).says() for rank in (range(self.num_ranks) if ranks is None else ranks)]
        if "saved" in told:
            self.acknowledged.append(self.step)
        return told

    # Healing

    def heal(self) -> None:
        """Bring everything up again, and save once."""
        self.network.join()
        for process in self.processes.values():
            process.traps.disarm()
            process.go_on()
        if not self.coordinator.is_alive:
            self.start_coordinator(self.coordinator.host.name)
        for host in self.hosts:
            if not self.agent(host).is_alive:
                self.start_agent(host)
        if not all(self.rank(rank).is_alive for rank in range(self.num_ranks)):
            for rank in range(self.num_ranks):
                self.rank(rank).end()
            self.start_ranks()

    def go_well(self) -> None:
        """Let all be up, and save; then check all that holds.

        What was away for longer than its lease needs a moment: until it is connected again, saves end with its name.
        """
        self.heal()
        for _ in range(20):
            self.save()
            if set(answers := self.answers()) == {"saved"}:
                self.check()
                return
            threading.Event().wait(0.5)
        raise AssertionError(f"all is well again, and saves fail: {answers}\n{self.told()}")

    def told(self) -> str:
        """Return the ends of the logs of agents and coordinator."""
        return "\n\n".join(each.told()[-1500:] for each in self.processes.values() if "rank" not in each.name)

    def start_anew(self) -> None:
        """Kill all processes, and start others: what a case has broken must not break the next."""
        for process in self.processes.values():
            process.kill()
        self.heal()

    # Checking

    def _watch_state(self) -> None:
        """The latest of the state file never goes back."""
        latest = -1
        while not self._over.wait(0.1):
            try:
                prefixes = listed(self.shared)
            except Exception:  # a store that is down
                continue
            step = _step_of(prefixes[-1]) if prefixes else -1
            if step < latest:
                self.went_back.append(f"{step} after {latest}")
            latest = step

    def check(self) -> None:
        """What holds whatever has happened; all processes are up."""
        assert not self.went_back
        eventually(lambda: not self.rubbish(), lambda: f"{self.rubbish()}\n{self.told()}", within_s=self.patience_s)
        prefixes = listed(self.shared)
        steps = [_step_of(prefix) for prefix in prefixes]
        assert steps == sorted(steps)
        assert self.acknowledged[-1] <= steps[-1]
        assert set(self.acknowledged[-3:]) - {0} <= set(steps), (self.acknowledged, steps)
        for prefix in prefixes[-2:]:
            self.check_values(prefix)

    def check_values(self, prefix: str) -> None:
        """Read a checkpoint with TensorFlow."""
        import tempfile

        import tensorflow as tf

        with tempfile.TemporaryDirectory() as where:
            reader = tf.train.load_checkpoint(self.shared.fetch(prefix, Path(where)))
            step, w = int(reader.get_tensor("step")), reader.get_tensor("w")
        assert step == _step_of(prefix)
        for rank, part in enumerate(np.split(w, self.num_ranks)):
            assert (part == value_of(step, rank)).all()

    def rubbish(self) -> list[str]:
        """Return what no checkpoint needs, but records that keep their number of shards from others for a day.

        These are of saves that are over: aborted, or deleted by retention. Nothing else of such a save is left.
        """
        prefixes = listed(self.shared)
        kept = {prefix: len(files_of(self.shared, prefix)) - 1 for prefix in prefixes}
        rest = left_over(self.shared.found(), kept)
        return [name for name in rest if not self.is_tombstone(name)] + self.shared.uploads()

    def records(self) -> set[str]:
        """Return the names of all records."""
        return {name for name in self.shared.found() if _RECORD.fullmatch(name)}

    def is_tombstone(self, name: str) -> bool:
        """Whether this is the record of a save that somebody has ended."""
        data = self.shared.get(name) if _RECORD.fullmatch(name) else None
        if data is None:
            return False
        said = json.loads(data)
        return bool(said["published"] or said["aborted_at"] is not None)

    def close(self) -> None:
        self._over.set()
        for process in sorted(self._started, key=lambda each: not each.name.startswith("rank")):
            process.end()
        self._watch.join(WAIT_S)


def _step_of(prefix: str) -> int:
    return int(re.fullmatch(r".*-(\d+)", prefix)[1])  # type: ignore[index]
