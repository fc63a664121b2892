"""JAX jobs of several processes: real ones, with collectives between them, and one that is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np

import ckptd
from ckptd.jax import load
from tests.e2e.jax_worker import FULL
from tests.services.server import free_ports
from tests.starts import prepared

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "train_jax.py"
BOUND_S = 150.0
FEWER_OPTIMIZATIONS = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # what takes longest is compiling


def test_two_processes_save_what_each_holds_and_restore_what_each_wants(daemon):
    meeting = f"127.0.0.1:{free_ports()[0]}"
    workers = [
        prepared.Popen(
            [sys.executable, "-m", "tests.e2e.jax_worker", daemon.address, meeting, str(rank), "2"],
            imports=prepared.JAX,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=daemon.environment,
        )
        for rank in range(2)
    ]
    try:
        said = [worker.communicate(timeout=BOUND_S)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(said)
    run = daemon.root / "jax"
    stored = load(run)
    assert stored["step"] == 5
    for array in stored["spread"].values():
        assert np.array_equal(array, FULL)
    # What lies on both processes was written once.
    with ckptd.Checkpointer(daemon.address, run="jax") as ckpt:
        done = ckpt.latest()
    outline = len(ckptd.load_variable(run, "_CKPTD_OUTLINE"))
    assert done.size_bytes < len(stored["spread"]) * FULL.nbytes + outline + 150


def test_the_example_is_killed_and_goes_on_with_another_number_of_workers(daemon):
    environment = daemon.environment | FEWER_OPTIMIZATIONS
    run = daemon.root / "examples" / "jax"

    def start(workers, steps):
        arguments = [daemon.address, f"--workers={workers}", f"--steps={steps}", "--save-every=20"]
        return prepared.Popen(
            [sys.executable, str(EXAMPLE), *arguments],
            imports=prepared.JAX,
            children_fork=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            start_new_session=True,
        )

    first = start(2, 1_000_000)
    bound = threading.Timer(BOUND_S, os.killpg, (first.pid, signal.SIGKILL))
    bound.start()
    said = []
    for line in first.stdout:
        said.append(line)
        if "step 60:" in line:  # the third save has begun, so the first is durable
            break
    bound.cancel()
    assert "step 60:" in said[-1], "".join(said)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate(timeout=BOUND_S)

    daemon.wait_until_idle()  # a save that the dead had handed over is committed without them
    latest = int(ckptd.latest_checkpoint(run).rpartition("-")[2])
    assert latest >= 20
    assert ckptd.verify(run).ok
    second = start(1, latest + 40)
    try:
        out, _ = second.communicate(timeout=BOUND_S)
    finally:
        second.kill()
        second.wait()
    assert second.returncode == 0, out
    assert f"worker 0 of 1: continues at step {latest}" in out
    assert f"newest step {latest + 40}" in out
    accuracy = re.search(r"accuracy (\d\.\d+)", out)
    assert accuracy is not None
    assert float(accuracy[1]) > 0.85
