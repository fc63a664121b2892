"""The coordinator alone: a process of its own, and agents of many hosts that only speak; see simulated_agents.py."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from measuring import cpu_of, forget_peak, memory_of
from simulated_agents import RUN, agents_of, all_of

from ckptd.demo.processes import child_environment
from ckptd.engine.catalog.root import read_or_make_id
from ckptd.storage.locations import open_store

_TIMEOUT_S = 900.0
_LEASE_S = 15.0
_MOST_AT_ONCE = 10_000


def work(address: str, root_id: str, hosts: range, num_hosts: int, num_slices: int, orders: Any) -> None:
    """Be the agents of some hosts, and do what is ordered."""
    asyncio.run(_work(address, root_id, hosts, num_hosts, num_slices, orders))


async def _work(address: str, root_id: str, hosts: range, num_hosts: int, num_slices: int, orders: Any) -> None:
    made = agents_of(address, hosts, num_hosts, num_slices)
    sums = os.urandom(4 * 8 * num_slices)
    orders.send(None)
    while (order := await asyncio.to_thread(orders.recv)) is not None:
        name, *rest = order
        answer: Any = None
        if name == "attend":
            await all_of([agent.attend(root_id) for agent in made])
        elif name in ("place", "hand_over"):
            await all_of([getattr(agent, name)() for agent in made])
        elif name == "declare":
            await all_of([agent.declare(*rest) for agent in made])
            answer = sum(await all_of([agent.planned() for agent in made], _MOST_AT_ONCE))
        elif name == "seal":
            sealed = await all_of([agent.seal(sums) for agent in made])
            heard = await all_of([agent.ended() for agent in made], _MOST_AT_ONCE)
            answer = max(sealed), min(heard), max(heard)
        counted = [agent.counted() for agent in made]
        orders.send((answer, sum(each.up for each in counted), sum(each.down for each in counted)))
    await all_of([agent.leave() for agent in made])
    orders.send(None)


class Coordinator:
    """The process, over a directory."""

    def __init__(self, place: Path) -> None:
        self.root, self._log = place / "root", place / "coordinator.log"
        self.root.mkdir()
        self.address = f"unix://{place}/coordinator.sock"
        ready = place / "coordinator.ready"
        bounds = (
            "--agent-lease-s",
            str(_LEASE_S),
            "--lease-s",
            str(_LEASE_S),
            "--declare-timeout-s",
            str(5 * _LEASE_S),
        )
        where = ("--root", str(self.root), "--listen", self.address, "--ready-file", str(ready))
        with self._log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ckptd", "serve", "--role", "coordinator", *where, *bounds],
                stdout=errors,
                stderr=subprocess.STDOUT,
                env=child_environment(),
            )
        self.pid = self._process.pid
        while not ready.exists():
            if self._process.poll() is not None:
                raise SystemExit(self._log.read_text())
            time.sleep(0.05)

    def end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(60)
        finally:
            self._process.kill()


class Phase:
    """What one order of all agents cost the coordinator."""

    def __init__(self, coordinator: Coordinator, pipes: Sequence[Any], *order: Any) -> None:
        forget_peak(coordinator.pid)
        before, began = cpu_of(coordinator.pid), time.monotonic()
        for pipe in pipes:
            pipe.send(order)
        self.answers: list[Any] = []
        self.up = self.down = 0
        for answer, up, down in heard(pipes):
            self.answers.append(answer)
            self.up, self.down = self.up + up, self.down + down
        self.wall_s, self.cpu_s = time.monotonic() - began, cpu_of(coordinator.pid) - before
        self.peak_bytes = memory_of(coordinator.pid)["VmHWM"]

    def figures(self) -> dict[str, Any]:
        return {
            "wall_s": self.wall_s,
            "cpu_s": self.cpu_s,
            "up_bytes": self.up,
            "down_bytes": self.down,
            "peak_bytes": self.peak_bytes,
        }


def heard(pipes: Sequence[Any]) -> list[Any]:
    answers = []
    for pipe in pipes:
        if not pipe.poll(_TIMEOUT_S):
            raise SystemExit(f"the agents were silent for {_TIMEOUT_S:.0f} s")
        answers.append(pipe.recv())
    return answers


def measure(place: Path, num_hosts: int, num_slices: int, num_processes: int, num_saves: int) -> dict[str, Any]:
    """Let so many hosts join and save, several times the same layout."""
    place.mkdir(parents=True)
    coordinator = Coordinator(place)
    processes, pipes = [], []
    try:
        idle = memory_of(coordinator.pid)["VmRSS"]
        root_id = read_or_make_id(open_store(str(coordinator.root)))
        spawn = multiprocessing.get_context("spawn")
        num_processes = min(num_processes, num_hosts)
        cut = [num_hosts * number // num_processes for number in range(num_processes + 1)]
        for begin, end in pairwise(cut):
            ours, theirs = spawn.Pipe()
            mine = (coordinator.address, root_id, range(begin, end), num_hosts, num_slices, theirs)
            process = spawn.Process(target=work, args=mine, daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            pipes.append(ours)
        heard(pipes)
        joining = {name: Phase(coordinator, pipes, name).figures() for name in ("attend", "place", "hand_over")}
        saves = [_save(coordinator, pipes, step) for step in range(1, num_saves + 1)]
        for pipe in pipes:
            pipe.send(None)
        heard(pipes)
        for process in processes:
            process.join(60)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
        coordinator.end()
    index = coordinator.root / RUN / f"model.ckpt-{num_saves}.index"
    return {
        "hosts": num_hosts,
        "ranks": num_hosts * 8,
        "slices": saves[0]["slices"],
        "idle_bytes": idle,
        "index_bytes": index.stat().st_size,
        "joining": joining,
        "saves": saves,
    }


def _save(coordinator: Coordinator, pipes: Sequence[Any], step: int) -> dict[str, Any]:
    planned = Phase(coordinator, pipes, "declare", step)
    sealed = Phase(coordinator, pipes, "seal")
    last_receipt, first_heard, last_heard = (
        choose(each[at] for each in sealed.answers) for at, choose in enumerate((max, min, max))
    )
    return {
        "slices": sum(planned.answers),
        "planned": planned.figures(),
        "sealed": sealed.figures(),
        "cpu_s": planned.cpu_s + sealed.cpu_s,
        "up_bytes": planned.up + sealed.up,
        "down_bytes": planned.down + sealed.down,
        "peak_bytes": max(planned.peak_bytes, sealed.peak_bytes),
        "published_s": first_heard - last_receipt,
        "all_heard_s": last_heard - last_receipt,
    }
