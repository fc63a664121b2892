"""A crew: one process per rank, all running the same contender; they take commands and report how long each took."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import socket
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from contenders.base import Contender, Job
from measuring import cpu_of, memory_of, shared_memory_of

from ckptd.demo.processes import Daemon

BOUND_S = 600.0
# Ranks are as many as the cores or more. Numpy reads it when it is imported: it has to be there before a rank starts.
_ONE_THREAD_EACH = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class CrewFailedError(Exception):
    """A rank failed, fell silent or ended; the message has its last words."""


def work(contender: type[Contender], job: Job, directory: Path, orders: Any) -> None:
    """Run one rank until it receives the command to end."""
    try:
        member = contender(job, directory)
        orders.send((True, member.size_bytes()))
        while True:
            order = orders.recv()
            if order is None:
                member.close()
                orders.send((True, None))
                return
            action, *rest = order
            orders.send((True, getattr(member, action)(*rest)))
    except BaseException as error:
        orders.send((False, f"{type(error).__name__}: {error}\n{traceback.format_exc()}"))
        raise


class Crew:
    """The processes of one contender, and the daemon if it needs one."""

    def __init__(
        self, contender: type[Contender], job: Job, directory: Path, daemon_options: Sequence[str] = ()
    ) -> None:
        self.contender = contender
        self.directory = directory
        self.processes: list[Any] = []
        self.daemon: Daemon | None = None
        self._job = job
        self._pipes: list[Any] = []
        self._daemon_options = daemon_options
        self._num_daemons = 0
        self.size_bytes = 0

    def start(self) -> None:
        addresses = {"meeting": f"127.0.0.1:{free_port()}"}
        if self.contender.needs_daemon:
            addresses["daemon"] = self._start_daemon()
        os.environ.update(_ONE_THREAD_EACH)
        spawn = multiprocessing.get_context("spawn")
        for rank in range(self._job.processes):
            ours, theirs = spawn.Pipe()
            job = replace(self._job, rank=rank, addresses=addresses)
            process = spawn.Process(target=work, args=(self.contender, job, self.directory, theirs), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self.processes.append(process)
        self.size_bytes = sum(self._heard())

    def everyone(self, *order: Any) -> list[Any]:
        """Send a command to all ranks, return their answers in rank order."""
        for pipe in self._pipes:
            pipe.send(order)
        return self._heard()

    def one(self, *order: Any) -> Any:
        """Send a command to rank 0."""
        self._pipes[0].send(order)
        return self._hear(0)

    def _heard(self) -> list[Any]:
        return [self._hear(rank) for rank in range(len(self._pipes))]

    def _hear(self, rank: int) -> Any:
        pipe = self._pipes[rank]
        if not pipe.poll(BOUND_S):
            raise CrewFailedError(f"rank {rank} of {self.contender.name} was silent for {BOUND_S:.0f} s")
        try:
            well, answer = pipe.recv()
        except EOFError:
            raise CrewFailedError(f"rank {rank} of {self.contender.name} ended without a word") from None
        if not well:
            raise CrewFailedError(f"rank {rank} of {self.contender.name}: {answer}")
        return answer

    def timed_completion(self, step: int) -> float:
        """Return how long it took one rank to do what remains once all have written."""
        began = time.monotonic()
        self.one("complete", step)
        return time.monotonic() - began

    def forget(self, step: int) -> None:
        """Remove what was saved as `step`, outside the clock. ckptd does it itself, inside: it keeps one."""
        if self.daemon is not None:
            return
        for path in self.directory.iterdir():
            if f"-{step}" in path.name:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def change_daemon(self) -> None:
        """Put a new daemon in the place of the old one, which remembers nothing but what is on disk."""
        assert self.daemon is not None
        self.everyone("leave")
        self.daemon.stop()
        self.everyone("join", self._start_daemon())

    def _start_daemon(self) -> str:
        self._num_daemons += 1
        beside = self.directory.parent
        log, ready = beside / f"daemon-{self._num_daemons}.log", beside / f"daemon-{self._num_daemons}.json"
        self.daemon = Daemon(self.directory, log, ready, self._daemon_options)
        self.daemon.wait_until_ready()
        return "grpc://{}:{}".format(*self.daemon.port())

    def pids(self) -> list[int]:
        return [process.pid for process in self.processes] + ([self.daemon.pid] if self.daemon is not None else [])

    def cpu_s(self) -> float:
        return sum(cpu_of(pid) for pid in self.pids())

    def memory_bytes(self, what: str) -> int:
        """Return the sum over all processes, what ranks share with the daemon counted once."""
        total = sum(memory_of(pid)[what] for pid in self.pids())
        if self.daemon is not None:
            shared = sum(shared_memory_of(process.pid) for process in self.processes)
            total -= min(shared, shared_memory_of(self.daemon.pid))
        return total

    def end(self) -> None:
        for pipe in self._pipes:
            pipe.send(None)
        self._heard()
        for process in self.processes:
            process.join(60)

    def kill(self) -> None:
        """Leave nothing behind, however it went."""
        for process in self.processes:
            if process.is_alive():
                process.kill()
                process.join(10)
        for pipe in self._pipes:
            pipe.close()
        if self.daemon is not None:
            self.daemon.stop()


@contextmanager
def crew_of(
    contender: type[Contender], job: Job, directory: Path, daemon_options: Sequence[str] = ()
) -> Iterator[Crew]:
    """Yield a crew that has made its arrays; end it afterwards."""
    crew = Crew(contender, job, directory, daemon_options)
    try:
        crew.start()
        yield crew
        crew.end()
    finally:
        crew.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_quiet(pause_s: float) -> None:
    """Let the disk finish what others wrote, so that no contender pays for the one before."""
    os.sync()
    time.sleep(pause_s)
