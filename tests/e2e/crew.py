"""The workers of a job that saves, as processes that are told what to save, and can be killed."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from ckptd.demo.processes import child_environment
from tests.e2e.killing import WAIT_S
from tests.starts import prepared


class Crew:
    """The worker processes of one generation of the job. A rank that is gone cannot be replaced alone."""

    def __init__(self, address: str | Sequence[str], run: str, world_size: int, max_to_keep: int, log: Path) -> None:
        self.processes: list[subprocess.Popen[str]] = []
        self._said: list[queue.Queue[str]] = [queue.Queue() for _ in range(world_size)]
        addresses = [address] * world_size if isinstance(address, str) else address
        for rank in range(world_size):
            arguments = [addresses[rank], run, str(rank), str(world_size), str(max_to_keep)]
            with log.open("ab") as errors:
                process = prepared.Popen(
                    [sys.executable, "-m", "tests.e2e.saving_worker", *arguments],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    env=child_environment(),
                )
            self.processes.append(process)
            threading.Thread(target=self._listen, args=(process, self._said[rank]), daemon=True).start()
        assert self.answers(WAIT_S) == ["ready"] * world_size

    def _listen(self, process: subprocess.Popen[str], said: queue.Queue[str]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                said.put(line.rstrip("\n"))
        said.put("")

    def save(self, step: int, count: int, ranks: Iterable[int] | None = None, half: str = "") -> None:
        """Let ranks save; with `half` also a vector of this dtype."""
        for process in self.processes if ranks is None else [self.processes[rank] for rank in ranks]:
            assert process.stdin is not None
            process.stdin.write(f"{step} {count} {half}\n")
            process.stdin.flush()

    def answers(self, timeout_s: float) -> list[str]:
        """Wait until each has said what became of the last order; "" is from the dead."""
        return [said.get(timeout=timeout_s) for said in self._said]

    def answers_of(self, ranks: Iterable[int], timeout_s: float) -> list[str]:
        """The same of some ranks."""
        return [self._said[rank].get(timeout=timeout_s) for rank in ranks]

    def kill(self, rank: int) -> None:
        self.processes[rank].kill()
        self.processes[rank].wait(WAIT_S)

    def end(self) -> None:
        """Let them leave the run; who does not is killed."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self.processes:
            try:
                process.wait(WAIT_S)
            finally:
                process.kill()
