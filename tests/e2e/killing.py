"""What the tests share that kill processes: a daemon, the moment at which it is killed, and what may be left over."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from ckptd.demo.processes import child_environment
from ckptd.engine.catalog import reserve
from ckptd.format import names
from tests.starts import prepared

WAIT_S = 120.0


def pause(seconds: float) -> None:
    """Let the moment come at which to kill."""
    threading.Event().wait(seconds)


def fresh_seed() -> int:
    """Return a campaign's seed, and show it: with the same seed the same is drawn again."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    return seed


class Daemon:
    """One life of a daemon on a root and a Unix socket in `directory`."""

    def __init__(self, directory: Path, root: str | Path, *flags: str) -> None:
        self.address = f"unix://{directory}/d.sock"
        self.log = directory / "daemon.log"
        self._ready = directory / "ready.json"
        self._ready.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self.process = prepared.Popen(
                [
                    sys.executable, "-m", "ckptd", "serve", "--root", str(root),
                    "--listen", self.address, "--ready-file", str(self._ready), "--lease-s", "1", *flags,
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=child_environment(),
            )  # fmt: skip

    def wait_until_ready(self, timeout_s: float = WAIT_S) -> None:
        for _ in range(int(timeout_s / 0.02)):
            assert self.process.poll() is None, f"the daemon ended by itself:\n{self.log_end()}"
            if self._ready.exists():
                return
            pause(0.02)
        pytest.fail(f"the daemon did not get ready:\n{self.log_end()}")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(WAIT_S)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT_S)

    def log_end(self) -> str:
        return self.log.read_text()[-4000:]


def left_over(found: Iterable[str], kept: Mapping[str, int]) -> list[str]:
    """Return what no checkpoint needs, of the names below a run's directory.

    `kept` are the prefixes of its checkpoints, with their numbers of shards. Each has one record.
    """
    # A directory's lock is a file that stays; in a bucket the fence and the note of a run at rest do.
    of_a_bucket = {".ckptd/at-rest", f".ckptd/{names.STATE_KEY}.fence"}
    of_the_run = {names.STATE_KEY, ".ckptd/epoch", ".ckptd/history", ".ckptd/.lock.ckptd-lock", *of_a_bucket}
    rest = set(found) - of_the_run - set(reserve.KEYS)
    for prefix, num_shards in kept.items():
        rest -= {names.index_key(prefix), *(names.shard_key(prefix, each, num_shards) for each in range(num_shards))}
        records = sorted(name for name in rest if name.startswith(f".ckptd/{prefix}.") and name.endswith(".json"))
        rest -= set(records[:1])
    return sorted(rest)
