"""Hosts that save and restore together over links of given rates, with agents, and through one daemon; see hosts.py."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from host_network import Network, counted, inside, relay
from processor_seconds import spent_s

from ckptd.demo.processes import child_environment, tail

_PORT = 7070
_LEASE_S = 15.0
_START_S = 120.0
_HERE = Path(__file__).resolve().parent


class Place:
    """Where programs run: roots are below `root`, and logs and sockets in a directory."""

    def __init__(self, root: str, place: Path) -> None:
        self.root, self.place = root, place
        self._started = 0

    def serve(self, space: str, root: str, *options: str) -> contextlib.AbstractContextManager[None]:
        """Run `ckptd serve` in a namespace."""
        self._started += 1
        return self._serving(space, f"{self._started}", "--root", f"{self.root}/{root}", *options)

    @contextlib.contextmanager
    def _serving(self, space: str, name: str, *options: str) -> Iterator[None]:
        ready, log = self.place / f"{name}.ready", self.place / f"{name}.log"
        command = inside(space, sys.executable, "-m", "ckptd", "serve", *options, "--ready-file", str(ready))
        with log.open("ab") as out:
            process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=child_environment())
        try:
            began = time.monotonic()
            while not ready.exists():
                if process.poll() is not None or time.monotonic() - began > _START_S:
                    raise SystemExit(f"ckptd serve {' '.join(options)} did not start:\n{tail(log)}")
                time.sleep(0.05)
            yield
        finally:
            process.terminate()
            try:
                process.wait(60)
            finally:
                process.kill()


class Crew:
    """Processes in namespaces, that do together what they are told: ranks of a job, or readers of a bucket."""

    def __init__(self, spaces: Sequence[str], program: str, arguments: Sequence[Sequence[object]], log: Path):
        self._processes: list[subprocess.Popen[str]] = []
        for space, own in zip(spaces, arguments, strict=True):
            with log.open("ab") as errors:
                process = subprocess.Popen(
                    inside(space, sys.executable, str(_HERE / program), *map(str, own)),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    env=child_environment(),
                )
            self._processes.append(process)
        self._log = log

    def ready(self) -> None:
        self._answers()

    def told(self, action: str, step: int, ranks: Sequence[int] | None = None) -> list[list[float]]:
        """Let ranks do it together; return for each when it began and ended, and for how long it stood still."""
        chosen = range(len(self._processes)) if ranks is None else ranks
        for rank in chosen:
            stdin = self._processes[rank].stdin
            assert stdin is not None
            stdin.write(f"{action} {step}\n")
            stdin.flush()
        return [[float(word) for word in line.split()] for line in self._answers(chosen)]

    def _answers(self, ranks: Sequence[int] | None = None) -> list[str]:
        lines = []
        for rank in range(len(self._processes)) if ranks is None else ranks:
            stdout = self._processes[rank].stdout
            assert stdout is not None
            lines.append(stdout.readline())
            if not lines[-1]:
                raise SystemExit(f"process {rank} ended:\n{tail(self._log)}")
        return lines

    def end(self) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._processes:
            try:
                process.wait(60)
            finally:
                process.kill()


@contextlib.contextmanager
def crew(spaces: Sequence[str], program: str, arguments: Sequence[Sequence[object]], log: Path) -> Iterator[Crew]:
    made = Crew(spaces, program, arguments, log)
    try:
        made.ready()
        yield made
    finally:
        made.end()


def ranks_of(
    spaces: Sequence[str], addresses: Sequence[str], size: int, tensors: int, log: Path
) -> contextlib.AbstractContextManager[Crew]:
    """Start the ranks of a job, one process each."""
    told = [(address, "r", rank, len(spaces), size, tensors) for rank, address in enumerate(addresses)]
    return crew(spaces, "host_worker.py", told, log)


class Networked(Place):
    """The same, over a bucket, in namespaces."""

    def __init__(self, network: Network, bucket: str, place: Path) -> None:
        super().__init__(f"s3://{bucket}", place)
        self.network = network


@contextlib.contextmanager
def with_agents(place: Networked, hosts: Sequence[str], args: Any, name: str) -> Iterator[Crew]:
    """Run a coordinator, an agent on each host, and ranks that save through it."""
    network, loopback = place.network, f"127.0.0.1:{_PORT}"
    lease = ("--lease-s", str(_LEASE_S))
    with contextlib.ExitStack() as stack:
        coordinator = ("--role", "coordinator", "--agent-lease-s", str(_LEASE_S), "--insecure-loopback")
        stack.enter_context(
            place.serve(network.coordinator, name, *coordinator, *lease, "--listen", f"grpc://{loopback}")
        )
        stack.enter_context(relay(network.coordinator, f"{network.coordinator_address}:{_PORT}", loopback))
        sockets = []
        for number, host in enumerate(hosts):
            stack.enter_context(relay(host, loopback, f"{network.coordinator_address}:{_PORT}"))
            sockets.append(f"unix://{place.place}/{name}-{number}.sock")
            agent = ("--role", "agent", "--name", f"host-{number}", "--coordinator", f"grpc://{loopback}")
            stack.enter_context(place.serve(host, name, *agent, *lease, "--listen", sockets[-1]))
        spaces = [host for host in hosts for _ in range(args.ranks)]
        addresses = [address for address in sockets for _ in range(args.ranks)]
        size = args.size_bytes // args.ranks
        log = place.place / f"{name}.ranks.log"
        yield stack.enter_context(ranks_of(spaces, addresses, size, args.tensors, log))


@contextlib.contextmanager
def through_one_daemon(place: Networked, hosts: Sequence[str], args: Any, name: str) -> Iterator[Crew]:
    """Run one daemon where the coordinator would be, and ranks that send it their bytes."""
    network, loopback = place.network, f"127.0.0.1:{_PORT}"
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            # Without shared memory: this machine has it, ranks on other hosts would not.
            place.serve(
                network.coordinator,
                name,
                *("--arena-bytes", "0", "--insecure-loopback", "--listen", f"grpc://{loopback}"),
            )
        )
        stack.enter_context(relay(network.coordinator, f"{network.coordinator_address}:{_PORT}", loopback))
        for host in hosts:
            stack.enter_context(relay(host, loopback, f"{network.coordinator_address}:{_PORT}"))
        spaces = [host for host in hosts for _ in range(args.ranks)]
        addresses, size = [f"grpc://{loopback}"] * len(spaces), args.size_bytes // args.ranks
        log = place.place / f"{name}.ranks.log"
        yield stack.enter_context(ranks_of(spaces, addresses, size, args.tensors, log))


def saves(place: Networked, ranks: Crew, num_saves: int) -> list[dict[str, float]]:
    """Save so often, and count what goes through the coordinator's interfaces meanwhile. The first is a warm-up."""
    found = []
    for step in range(1, num_saves + 2):
        before = counted(place.network.coordinator, "to-c"), counted(place.network.coordinator, "to-s")
        answers = ranks.told("save", step)
        after = counted(place.network.coordinator, "to-c"), counted(place.network.coordinator, "to-s")
        found.append(
            {
                "durable_s": _spent(answers),
                "stall_s": max(stall_s for *_, stall_s in answers),
                "to_coordinator_bytes": after[0][0] - before[0][0],
                "from_coordinator_bytes": after[0][1] - before[0][1],
                "coordinator_to_store_bytes": after[1][1] - before[1][1],
            }
        )
    return found


def restores(place: Networked, ranks: Crew, args: Any, step: int, num_hosts: int) -> dict[str, Any]:
    """Let one rank of each host restore the whole state, all at once."""
    before, processors_before = counted(place.network.store, "to-s")[1], spent_s()
    answers = ranks.told("restore", step, [number * args.ranks for number in range(num_hosts)])
    sent = counted(place.network.store, "to-s")[1] - before
    return {
        "restore_s": _spent(answers),
        "store_bytes": sent,
        "of_checkpoint": sent / (args.size_bytes * num_hosts),
        "processor_s": dict(spent_s() - processors_before),
    }


def bare_reads(place: Networked, hosts: Sequence[str], args: Any, name: str, rounds: int = 3) -> float:
    """Return the seconds in which the store gives each byte of a checkpoint once, a share to each host, and no more."""
    bucket = place.root.removeprefix("s3://")
    shares = [(bucket, f"{name}/r", number, len(hosts)) for number in range(len(hosts))]
    with crew(hosts, "host_reader.py", shares, place.place / f"{name}.readers.log") as readers:
        answers = [readers.told("read", number) for number in range(rounds)]
    read = sum(size for *_, size in answers[0])
    if read < args.size_bytes * len(hosts):
        raise SystemExit(f"the readers found {read:.0f} bytes, and not those of {len(hosts)} hosts")
    return statistics.median(map(_spent, answers))


def _spent(answers: Sequence[Sequence[float]]) -> float:
    return max(ended for _, ended, _ in answers) - min(began for began, _, _ in answers)


def measure(place: Networked, args: Any) -> dict[str, Any]:
    """Measure one host, several, and several through one daemon, one after another."""
    hosts, found = place.network.hosts, {}
    if not args.restores_only:
        with with_agents(place, hosts[:1], args, "one") as ranks:
            found["one host"] = saves(place, ranks, args.saves)
    with with_agents(place, hosts, args, "all") as ranks:
        found["agents"] = saves(place, ranks, args.saves)
        from_memory = restores(place, ranks, args, args.saves + 1, len(hosts))
    bare_s = bare_reads(place, hosts, args, "all")
    with with_agents(place, hosts, args, "all") as ranks:  # new ones, that have nothing in memory
        restored = restores(place, ranks, args, args.saves + 1, len(hosts))
    if not args.restores_only:
        with through_one_daemon(place, hosts, args, "daemon") as ranks:
            found["one daemon"] = saves(place, ranks, args.saves)
    medians = {
        name: {measure: statistics.median(each[measure] for each in values[1:]) for measure in values[0]}
        for name, values in found.items()
    }
    num_ranks = len(hosts) * args.ranks
    slices = num_ranks * args.tensors
    return {
        "hosts": len(hosts),
        "ranks": num_ranks,
        "slices": slices,
        "host_bytes": args.size_bytes,
        "medians": medians,
        "restored": restored,
        "restored_from_memory": from_memory,
        "bare_read_s": bare_s,
        "restore_rate_of_store": bare_s / restored["restore_s"],
        "allowed_bytes": 4 * slices + 200 * num_ranks + 4096 * len(hosts),
    }


@contextlib.contextmanager
def store_in(network: Network, which: str, place: Path) -> Iterator[str]:
    """Run an S3 server of the tests here, in the store's namespace; yield a bucket that the environment leads to."""
    sys.path.insert(0, str(_HERE.parent))
    from tests.services import s3

    data = place / "s3"
    data.mkdir()
    service = s3.start(which, data)
    try:
        local = service.endpoint.rpartition("//")[2]
        port = local.rpartition(":")[2]
        with relay(network.store, f"{network.store_address}:{port}", local):
            os.environ.update(service.environment(f"http://{network.store_address}:{port}"))
            yield service.bucket
    finally:
        service.stop()
