"""The example that trains digits with PyTorch: killed in the middle, and resumed by another number of workers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import ckptd
from tests.starts import prepared

pytest.importorskip("torch")
pytest.importorskip("sklearn")

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "train_torch.py"
BOUND_S = 120.0


def start(daemon, workers, steps):
    return prepared.Popen(
        [sys.executable, str(EXAMPLE), daemon.address, f"--workers={workers}", f"--steps={steps}", "--save-every=20"],
        imports=(*prepared.TORCH, "sklearn.datasets"),
        children_fork=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=daemon.environment,
        start_new_session=True,
    )


def kill(job):
    """End all processes of a job at once, as the kernel or a power cut would."""
    os.killpg(job.pid, signal.SIGKILL)


def test_digits_are_learned_over_a_kill_and_with_fewer_workers_afterwards(daemon):
    with start(daemon, 3, 100_000) as job:
        watchdog = threading.Timer(BOUND_S, kill, [job])
        watchdog.start()
        try:
            for line in job.stdout:
                if re.search(r"model\.ckpt-60 is durable", line):
                    break
            assert job.poll() is None
        finally:
            watchdog.cancel()
            kill(job)
    daemon.wait_until_idle()  # a save that the dead had handed over is committed without them
    saved = ckptd.latest_checkpoint(daemon.root / "examples/digits-torch")
    assert ckptd.verify(saved).ok
    step = int(saved.rpartition("-")[2])
    last = step + 60

    with start(daemon, 2, last) as job:
        said, _ = job.communicate(timeout=BOUND_S)
        assert job.returncode == 0, said
    assert said.count(f"continues at step {step}") == 2
    ends = re.findall(rf"newest \S+/model\.ckpt-{last}(?!\d)", said)  # lines of two processes may run together
    assert len(ends) == 2, said
    assert "training stood still for" in said
    assert min(float(right) for right in re.findall(r"([\d.]+)% of the test right", said)) > 80
