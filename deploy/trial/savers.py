"""Workers that save without end while a trial kills what they save through, and what they say."""

from __future__ import annotations

import contextlib
import queue
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from trial.engine import REPOSITORY, succeeds
from trial.project import SOCKET, TRAIN_TOKEN, Project

TRIAL_RUN = "trial"
SAVE_BYTES = 48 << 20
WAIT_S = 60.0


@dataclass
class Told:
    """What the saving worker has said so far."""

    begun: int = 0
    saved: set[int] = field(default_factory=set)
    lost: list[str] = field(default_factory=list)

    def hear(self, line: str) -> None:
        what, _, rest = line.partition(" ")
        if what == "saving":
            self.begun = int(rest)
        elif what == "saved":
            self.saved.add(int(rest))
        else:
            self.lost.append(line)


@contextlib.contextmanager
def saving(tried: Project, service: str, size_bytes: int = SAVE_BYTES) -> Iterator[tuple[queue.Queue[str], Told]]:
    """Have a worker of a training service that saves without end, and hear what it says."""
    program = REPOSITORY / "deploy" / "trial" / "saver.py"
    name = f"{tried.environment['COMPOSE_PROJECT_NAME']}-{service}-saver"
    tried.compose(
        "--profile", "demo", "run", "--detach", "--no-deps", "--name", name, "--volume", f"{program}:/saver.py:ro",
        "--entrypoint", "python3", service, "/saver.py", SOCKET, TRIAL_RUN, str(size_bytes), TRAIN_TOKEN,
    )  # fmt: skip
    lines: queue.Queue[str] = queue.Queue()
    try:
        with subprocess.Popen(["docker", "logs", "--follow", name], stdout=subprocess.PIPE, text=True) as follower:
            threading.Thread(target=pass_on, args=(follower.stdout, lines), daemon=True).start()
            try:
                yield lines, Told()
            finally:
                follower.terminate()
    finally:
        succeeds(["docker", "rm", "--force", name])


def pass_on(stream: Any, lines: queue.Queue[str]) -> None:
    with contextlib.suppress(ValueError):  # it is closed once nobody listens
        for line in stream:
            lines.put(line.rstrip("\n"))


def listen(lines: queue.Queue[str], told: Told, *, until: int) -> None:
    """Hear what the worker says until so many of its saves are acknowledged."""
    deadline = time.monotonic() + WAIT_S
    while len(told.saved) < until:
        try:
            told.hear(lines.get(timeout=max(0.0, deadline - time.monotonic())))
        except queue.Empty:
            raise RuntimeError(f"no save was acknowledged for {WAIT_S:g} s; last lost: {told.lost[-1:]}") from None


def drain(lines: queue.Queue[str], told: Told) -> None:
    """Hear what was said until the daemon was gone: the worker's next word after its death is a loss or a save."""
    settled = len(told.saved) + len(told.lost)
    deadline = time.monotonic() + WAIT_S
    while len(told.saved) + len(told.lost) == settled or not lines.empty():
        try:
            told.hear(lines.get(timeout=max(0.0, deadline - time.monotonic())))
        except queue.Empty:
            return  # it still waits for a daemon
