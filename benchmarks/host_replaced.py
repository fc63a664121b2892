"""A host that is lost with all of its processes, and replaced: how long until its state is there, and saves go on.

A coordinator and three agents, two ranks each, save without end. Then an agent and its ranks are killed at one moment,
and a new agent and new ranks are started at once: under the same name, and in another round under another one. The
other ranks live on: what fails they begin again, each for itself.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ckptd.demo.processes import child_environment, tail

HOSTS, RANKS_OF_HOST = ("a", "b", "c"), 2
SAME, OTHER = "the same name", "another name"
_HERE = Path(__file__).resolve().parent
_START_S, _MOST_S = 120.0, 240.0
_RUN = "r"


@dataclass
class Rank:
    """A process, and what it has said: the step and when, per kind of line."""

    process: subprocess.Popen[str]
    said: queue.Queue[tuple[str, int, float, str]] = field(default_factory=queue.Queue)

    def listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            what, step, at, *why = line.rstrip("\n").split(" ", 3)
            self.said.put((what, int(step), float(at), why[0] if why else ""))

    def heard(self, wanted: str, after: float, killed_at: float = 0.0) -> tuple[int, float, list[str]]:
        """Return the first line of a kind that was said `after` a moment, and why what failed since the kill."""
        failed: list[str] = []
        give_up_at = time.monotonic() + _MOST_S
        while True:
            try:
                what, step, at, why = self.said.get(timeout=max(0.0, give_up_at - time.monotonic()))
            except queue.Empty:
                raise SystemExit(f"no rank {wanted} a step in {_MOST_S:g} s; failed: {failed[-3:]}") from None
            if what == wanted and at >= after:
                return step, at, failed
            if what == "failed" and at >= killed_at:
                failed.append(f"step {step} after {at - killed_at:.1f} s: {why}")


class Job:
    """The processes, by name: "coordinator", hosts, and ranks."""

    def __init__(self, root: str, place: Path, args: Any) -> None:
        self._root, self._place, self._args = root, place, args
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._host_of: dict[int, str] = {}
        self.ranks: dict[int, Rank] = {}

    def start(self) -> None:
        self.serve("coordinator")
        for number, host in enumerate(HOSTS):
            self.serve(host)
            self.train(host, number)

    def _address(self, name: str) -> str:
        return f"unix://{self._place}/{name}.sock"

    def serve(self, name: str, *, waits: bool = True) -> None:
        """Start a coordinator or an agent."""
        role = ["--role", "agent", "--name", name, "--coordinator", self._address("coordinator")]
        if name == "coordinator":
            role = ["--role", "coordinator"]
        ready, log = self._place / f"{name}.ready", self._place / f"{name}.log"
        ready.unlink(missing_ok=True)
        where = ["--root", self._root, "--listen", self._address(name), "--ready-file", str(ready)]
        with log.open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "ckptd", "serve", *role, *where],
                stdout=out,
                stderr=subprocess.STDOUT,
                env=child_environment(),
            )
        self._daemons[name] = process
        give_up_at = time.monotonic() + _START_S
        while waits and not ready.exists():
            if process.poll() is not None or time.monotonic() > give_up_at:
                raise SystemExit(f"{name} did not start:\n{tail(log)}")
            time.sleep(0.05)

    def train(self, host: str, number: int) -> None:
        """Start the ranks of the host of this number."""
        size = self._args.size_bytes // RANKS_OF_HOST
        for rank in range(number * RANKS_OF_HOST, (number + 1) * RANKS_OF_HOST):
            told = (_RUN, rank, len(HOSTS) * RANKS_OF_HOST, size, self._args.tensors)
            with (self._place / "ranks.log").open("ab") as errors:
                process = subprocess.Popen(
                    [sys.executable, str(_HERE / "replaced_worker.py"), self._address(host), *map(str, told)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    env=child_environment(),
                )
            self.ranks[rank], self._host_of[rank] = Rank(process), host
            threading.Thread(target=self.ranks[rank].listen, daemon=True).start()

    def kill_host(self, number: int) -> float:
        """Kill an agent and its ranks; return when."""
        ranks = [rank for rank in self.ranks if rank // RANKS_OF_HOST == number]
        killed = [self._daemons.pop(self._host_of[ranks[0]]), *(self.ranks[rank].process for rank in ranks)]
        at = time.monotonic()
        for process in killed:
            process.kill()
        for process in killed:
            process.wait()
        return at

    def end(self) -> None:
        ranks: list[subprocess.Popen[Any]] = [rank.process for rank in self.ranks.values()]
        for process in (*ranks, *self._daemons.values()):
            process.kill()
        for process in (*ranks, *self._daemons.values()):
            process.wait()


def lose(job: Job, number: int, name: str) -> dict[str, Any]:
    """Kill the host of this number, and start it anew under a name; return what came when."""
    began = time.monotonic()
    before = max(rank.heard("saved", began)[0] for rank in job.ranks.values())
    at = job.kill_host(number)
    job.serve(name, waits=False)
    job.train(name, number)
    new = [job.ranks[rank] for rank in job.ranks if rank // RANKS_OF_HOST == number]
    restored = [rank.heard("restored", at, at) for rank in new]
    there_at = max(when for _, when, _ in restored)
    stale = [step for step, *_ in restored if step < before]
    if stale:
        raise SystemExit(f"step {before} was acknowledged, and a new rank restored {stale[0]}")
    # A save that all ranks had captured before the kill may still be published, and is not one of all new ranks.
    saved = [rank.heard("saved", there_at, at) for rank in job.ranks.values()]
    return {
        "restored_s": there_at - at,
        "saved_s": max(when for _, when, _ in saved) - at,
        "failed": [failed for *_, failed in saved],
    }


def measure(root: str, place: Path, args: Any) -> dict[str, Any]:
    """Lose a host `args.rounds` times, replaced under the same name and under another one in turns."""
    job = Job(root, place, args)
    found: dict[str, list[dict[str, Any]]] = {SAME: [], OTHER: []}
    with contextlib.ExitStack() as stack:
        stack.callback(job.end)
        job.start()
        name = HOSTS[-1]
        for number in range(args.rounds):
            found[SAME].append(lose(job, len(HOSTS) - 1, name))
            name = f"spare-{number}"
            found[OTHER].append(lose(job, len(HOSTS) - 1, name))
    worst = {
        which: {each: max(one[each] for one in rounds) for each in ("restored_s", "saved_s")}
        for which, rounds in found.items()
    }
    return {"size_bytes": args.size_bytes, "rounds": found, "worst": worst}


@contextlib.contextmanager
def root_in(store: str, place: Path) -> Iterator[str]:
    """Yield a root: a directory, or a bucket of an S3 server of the tests here, to which the environment leads."""
    if store == "directory":
        (place / "root").mkdir()
        yield str(place / "root")
        return
    sys.path.insert(0, str(_HERE.parent))
    from tests.services import s3

    data = place / "s3"
    data.mkdir()
    service = s3.start(store, data)
    try:
        os.environ.update(service.environment())
        yield f"s3://{service.bucket}/root"
    finally:
        service.stop()
