"""A virtual clock, processes that are killed and paused, and a network that loses, repeats and delays. All by one seed.

Nothing here waits: an event happens at its time, and the next time is that of the next event. A process that is paused
in the middle of a request lets the rest of the world go on, and then goes on itself: as a zombie, perhaps.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import deque
from collections.abc import Callable
from itertools import count
from random import Random
from typing import Any

MAX_DEPTH = 3  # of pauses in pauses


class Killed(BaseException):
    """Ends whatever a process is doing. Nothing of ckptd catches it."""


class Process:
    """Something that can be killed, or paused. What comes for it while it is paused, it finds later."""

    def __init__(self, world: World, name: str, host: str) -> None:
        self.world, self.name, self.host = world, name, host
        self.is_dead = False
        self.pauses = 0
        self._paused_at = self._paused_s = 0.0
        self.backlog: list[Callable[[], None]] = []
        self.ops_until_kill: int | None = None
        self.ops_until_pause: int | None = None

    @property
    def awake_s(self) -> float:
        """For how long it has not been paused, on a clock of its own."""
        now = self._paused_at if self.pauses else self.world.now
        return now - self._paused_s

    def after(self, delay: float, act: Callable[[], None]) -> None:
        """Do something later, unless it is killed by then."""
        self.world.after(delay, self, act)

    def run(self, act: Callable[[], None]) -> None:
        if self.is_dead:
            return
        if self.pauses:
            self.backlog.append(act)
            return
        try:
            act()
        except Killed:
            self.kill()

    def kill(self) -> None:
        if not self.is_dead:
            self.world.log(f"{self.name} is killed")
            self.is_dead = True
            self.backlog.clear()

    def pause(self, for_s: float) -> None:
        """Stop it between two events."""
        self.world.log(f"{self.name} is paused for {for_s:.1f} s")
        self._stop()
        self.world.after(for_s, None, self._go_on)

    def _stop(self) -> None:
        if not self.pauses:
            self._paused_at = self.world.now
        self.pauses += 1

    def _go_on(self) -> None:
        self.pauses -= 1
        if not self.pauses:
            self._paused_s += self.world.now - self._paused_at
            waiting, self.backlog = self.backlog, []
            for act in waiting:  # later, as it may go on in the middle of a request
                self.after(0.0, act)

    def operate(self) -> None:
        """Called before and after each request of it to the store: here it may be killed, or paused for long."""
        if self.is_dead:
            raise Killed
        if self.ops_until_kill is not None:
            self.ops_until_kill -= 1
            if self.ops_until_kill <= 0:
                raise Killed
        if self.ops_until_pause is not None and self.world.depth < MAX_DEPTH:
            self.ops_until_pause -= 1
            if self.ops_until_pause <= 0:
                self.ops_until_pause = None
                self._pause_here(self.world.rng.choice([2.0, 20.0, 45.0]))

    def _pause_here(self, for_s: float) -> None:
        self.world.log(f"{self.name} is paused in a request for {for_s:.1f} s")
        self._stop()
        self.world.run_until(self.world.now + for_s)
        self.world.log(f"{self.name} goes on in its request")
        self._go_on()
        if self.is_dead:
            raise Killed


class World:
    """The clock, the events, and the trace of all that happened."""

    def __init__(self, seed: object) -> None:
        self.seed = seed
        self.rng = Random(str(seed))
        self.now = 0.0
        self.depth = 0
        self.num_events = 0
        self.recent: deque[str] = deque(maxlen=400)
        self._digest = hashlib.sha256()
        self._events: list[tuple[float, int, Process | None, Callable[[], None]]] = []  # no two have one number
        self._numbers = count()

    def log(self, text: str) -> None:
        line = f"{self.now:9.3f} {text}"
        self.recent.append(line)
        self._digest.update(line.encode())

    @property
    def trace(self) -> str:
        """The digest of all lines so far: equal for equal lives."""
        return self._digest.hexdigest()

    def after(self, delay: float, process: Process | None, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + delay, next(self._numbers), process, act))

    def run_until(self, at: float) -> None:
        self.depth += 1
        while self._events and self._events[0][0] <= at:
            due, _, process, act = heapq.heappop(self._events)
            self.now = max(self.now, due)
            self.num_events += 1
            if process is None:
                act()
            else:
                process.run(act)
        self.now = max(self.now, at)
        self.depth -= 1


class WorldClock:
    """The clock of one process: its wall clock may be wrong."""

    def __init__(self, world: World, skew_s: float = 0.0) -> None:
        self._world, self._skew_s = world, skew_s

    def wall_s(self) -> float:
        return 1_000_000.0 + self._world.now + self._skew_s

    def boot_s(self) -> float:
        return 1000.0 + self._world.now


class Network:
    """Messages between hosts. They are lost, come twice, overtake each other; a way may be cut in one direction."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._at: dict[str, tuple[Process, Callable[[str, Any], None]]] = {}
        self.cut: set[tuple[str, str]] = set()
        self.loss = self.repeat = self.delay = 0.0

    def listen(self, address: str, process: Process, take: Callable[[str, Any], None]) -> None:
        """Let a process be reached at an address, in place of the one before."""
        self._at[address] = (process, take)

    def send(self, sender: Process, source: str, address: str, message: object) -> None:
        rng = self._world.rng
        if address not in self._at or (sender.host, self._at[address][0].host) in self.cut:
            return
        for _ in range(2 if rng.random() < self.repeat else 1):
            if rng.random() < self.loss:
                continue
            delay = 0.001 + 0.02 * rng.random()
            if rng.random() < self.delay:
                delay = rng.choice([1.0, 8.0, 30.0]) * rng.random()
            self._world.after(delay, None, lambda: self._arrive(sender.host, source, address, message))

    def _arrive(self, host: str, source: str, address: str, message: object) -> None:
        process, take = self._at[address]
        if (host, process.host) not in self.cut:
            process.run(lambda: take(source, message))
