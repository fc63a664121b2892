"""A real daemon, killed with SIGKILL at any moment while two ranks save: nothing acknowledged is lost, latest verifies.

After each kill the directory is judged as the power switch left it, by reading it back, before the daemon may start
again. `pytest -m campaign tests/e2e/test_kill9.py` does it some hundreds of times.
"""

from __future__ import annotations

import random
import threading
from pathlib import Path

import numpy as np
import pytest

import ckptd
from tests.e2e.killing import WAIT_S, Daemon, fresh_seed, left_over, pause

ROUNDS, CAMPAIGN_ROUNDS = 6, 300
MEGABYTES = 4


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
    root = directory / "root"
    root.mkdir()
    daemon = Daemon(directory, root)
    daemon.wait_until_ready()
    job = Job(daemon.address)
    try:
        for _ in range(rounds):
            job.wait_for_another(job.acknowledged)
            pause(chance.uniform(0, 0.25))  # somewhere in the middle of the next save
            daemon.kill()
            check(root, job.acknowledged)
            daemon = Daemon(directory, root)
            daemon.wait_until_ready()
        job.wait_for_another(job.acknowledged)
    finally:
        job.end()
        code = daemon.stop()
    assert code == 0, daemon.log_end()
    check(root, job.acknowledged)
    assert not job.failures
    run = root / "runs/r"
    kept = {f"model.ckpt-{one.step}": one.num_shards for one in ckptd.Checkpointer(str(root), "runs/r").checkpoints()}
    found = [path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()]
    assert left_over(found, kept) == []


def test_a_daemon_killed_at_any_moment_loses_nothing_that_was_acknowledged(tmp_path):
    kill_again_and_again(tmp_path, ROUNDS, seed=1)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_hundreds_of_kills(tmp_path):
    kill_again_and_again(tmp_path, CAMPAIGN_ROUNDS, seed=fresh_seed())
