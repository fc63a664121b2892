"""A real daemon, killed with SIGKILL at any moment while two ranks save: nothing acknowledged is lost, latest verifies.

After each kill the directory is judged as the power switch left it, by reading it back, before the daemon may start
again. `pytest -m campaign tests/e2e/test_kill9.py` does it some hundreds of times.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import ckptd
from ckptd.demo.processes import child_environment

ROUNDS, CAMPAIGN_ROUNDS = 6, 300
MEGABYTES = 4
WAIT_S = 60.0


class Daemon:
    """One life of a daemon on a directory and a Unix socket."""

    def __init__(self, directory: Path) -> None:
        self.ready = directory / "ready.json"
        self.ready.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "ckptd", "serve", "--root", str(directory / "root"),
                "--listen", f"unix://{directory}/d.sock", "--ready-file", str(self.ready), "--lease-s", "1",
            ],
            stdout=(directory / "daemon.log").open("ab"),
            stderr=subprocess.STDOUT,
            env=child_environment(),
        )  # fmt: skip

    def wait_until_ready(self) -> None:
        pause = threading.Event()
        for _ in range(int(WAIT_S / 0.02)):
            assert self.process.poll() is None, "the daemon ended by itself"
            if self.ready.exists():
                return
            pause.wait(0.02)
        pytest.fail("the daemon did not get ready")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(WAIT_S)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT_S)


class Job:
    """Two ranks in threads of their own that save step after step, whatever happens to the daemon."""

    def __init__(self, address: str) -> None:
        self.acknowledged = 0
        self.failures: list[BaseException] = []
        self.saved = threading.Condition()
        self.is_over = threading.Event()
        self.barrier = threading.Barrier(2)
        self.threads = [threading.Thread(target=self.save_on, args=(address, rank)) for rank in (0, 1)]
        for thread in self.threads:
            thread.start()

    def save_on(self, address: str, rank: int) -> None:
        half = MEGABYTES * 125_000
        with ckptd.Checkpointer(
            address, "runs/r", rank=rank, world_size=2, max_to_keep=3, timeout_s=WAIT_S / 2
        ) as checkpointer:
            step = 0
            while True:
                step += 1
                part = np.full(half, step + rank / 2, np.float32)
                arrays = {"w": ckptd.Slice(part, (2 * half,), (half * rank,)), "step": np.int64(step)}
                try:
                    checkpointer.save(step, arrays).result(WAIT_S)
                except (ckptd.SessionAbortedError, ckptd.UnavailableError, ckptd.ConflictError):
                    pass  # the daemon died under it
                except BaseException as error:
                    self.failures.append(error)
                    self.is_over.set()
                else:
                    with self.saved:
                        self.acknowledged = max(self.acknowledged, step)
                        self.saved.notify_all()
                # Both ranks leave after the same step, or one would wait for the other until its deadline.
                if self.barrier.wait(WAIT_S) == 0 and self.is_over.is_set():
                    self.ends_after = step
                self.barrier.wait(WAIT_S)
                if getattr(self, "ends_after", None) == step:
                    return

    def wait_for_another(self, after: int) -> None:
        with self.saved:
            done = self.saved.wait_for(lambda: self.acknowledged > after or self.failures, WAIT_S)
        assert done, "no save was acknowledged"
        assert not self.failures, self.failures

    def end(self) -> None:
        self.is_over.set()
        for thread in self.threads:
            thread.join(WAIT_S)
            assert not thread.is_alive()


def check(root: Path, acknowledged: int) -> None:
    """The state file names a whole checkpoint that is not older than what was acknowledged."""
    prefix = ckptd.latest_checkpoint(str(root / "runs/r"))
    if prefix is None:
        assert acknowledged == 0
        return
    report = ckptd.verify(prefix)
    assert report.ok, report.problems
    reader = ckptd.load_checkpoint(prefix)
    step = int(reader.get_tensor("step"))
    assert step >= acknowledged
    weights = reader.get_tensor("w")
    assert (weights[: len(weights) // 2] == step).all()
    assert (weights[len(weights) // 2 :] == step + 0.5).all()


def kill_again_and_again(directory: Path, rounds: int, seed: int) -> None:
    chance = random.Random(seed)
    (directory / "root").mkdir()
    daemon = Daemon(directory)
    daemon.wait_until_ready()
    job = Job(f"unix://{directory}/d.sock")
    try:
        for _ in range(rounds):
            job.wait_for_another(job.acknowledged)
            threading.Event().wait(chance.uniform(0, 0.25))  # somewhere in the middle of the next save
            daemon.kill()
            check(directory / "root", job.acknowledged)
            daemon = Daemon(directory)
            daemon.wait_until_ready()
        job.wait_for_another(job.acknowledged)
    finally:
        job.end()
        code = daemon.stop()
    assert code == 0, (directory / "daemon.log").read_text()[-4000:]
    check(directory / "root", job.acknowledged)
    assert not job.failures
    reader = ckptd.Checkpointer(str(directory / "root"), "runs/r")
    kept = {f"model.ckpt-{one.step}" for one in reader.checkpoints()}
    names = [path.name for path in (directory / "root/runs/r").iterdir()]
    ours = [name for name in names if name.startswith((".", "model")) and name != ".ckptd"]
    assert not [name for name in ours if name.rsplit(".", 1)[0] not in kept], f"rubbish is left beside {kept}"


def test_a_daemon_killed_at_any_moment_loses_nothing_that_was_acknowledged(tmp_path):
    kill_again_and_again(tmp_path, ROUNDS, seed=1)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_hundreds_of_kills(tmp_path):
    kill_again_and_again(tmp_path, CAMPAIGN_ROUNDS, seed=random.SystemRandom().randrange(1 << 32))
