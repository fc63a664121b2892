"""examples/train_tensorflow.py, as somebody would run it: several processes, killed in the middle, and run again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import ckptd
from tests.e2e.killing import WAIT_S
from tests.starts import prepared

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "train_tensorflow.py"


def start(daemon, steps):
    return prepared.Popen(
        [sys.executable, str(EXAMPLE), daemon.address, "--steps", str(steps), "--save-every", "20"],
        imports=prepared.TENSORFLOW,
        children_fork=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**daemon.environment, "TF_CPP_MIN_LOG_LEVEL": "3"},
        start_new_session=True,
    )


def test_two_workers_of_tensorflow_go_on_after_kill_9(daemon):
    process = start(daemon, 100_000)
    said = []
    try:
        for line in process.stdout:  # ends when they do; the suite's own limit is the bound
            said.append(line)
            if "step 40," in line:
                break
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=WAIT_S)
    assert any("step 40," in line for line in said), "".join(said)
    run = daemon.root / "examples" / "digits"
    assert ckptd.verify(run).ok

    process = start(daemon, 100)
    try:
        told, _ = process.communicate(timeout=4 * WAIT_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, told
    continued = re.findall(r"worker \d of 2 continues at step (\d+)", told)
    assert continued in (["20", "20"], ["40", "40"]), told  # the last one was perhaps not handed over whole
    # Lines of two processes may run together.
    ends = re.findall(r"worker \d of 2: accuracy ([\d.]+), weights (\w+), newest (\S+?/ckpt-\d+)", told)
    assert len(ends) == 2, told
    assert ends[0] == ends[1]
    assert float(ends[0][0]) > 0.9
    assert ends[0][2] == str(run / "ckpt-100")
    assert ckptd.verify(run).ok
