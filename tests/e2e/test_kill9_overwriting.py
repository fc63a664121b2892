"""A real process that saves one step over and over, killed with SIGKILL at any moment: one version is always whole.

Which is judged by reading every byte back. `pytest -m campaign tests/e2e/test_kill9_overwriting.py` does it some
hundreds of times.
"""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import ckptd
from ckptd.demo.processes import child_environment
from tests.e2e.killing import WAIT_S, fresh_seed, pause
from tests.starts import prepared

ROUNDS, CAMPAIGN_ROUNDS = 4, 200

BEGIN = """
import itertools, sys
import numpy as np
import ckptd
directory, numbers = sys.argv[1], itertools.count(int(sys.argv[2]))
"""
PROGRAMS = {
    "checkpointer": """
with ckptd.Checkpointer(directory, "run") as ckpt:
    for n in numbers:
        ckpt.save(7, {"w": np.full(1 << 18, n)}, overwrite=True).result()
        print(n, flush=True)
""",
    "saver": """
w = np.zeros(1 << 18, np.int64)
saver = ckptd.Saver({"w": w})
for n in numbers:
    w[:] = n
    saver.save(f"{directory}/run/model.ckpt", 7)
    print(n, flush=True)
""",
}


def overwrite_and_kill(program: str, directory: Path, rounds: int, seed: int) -> None:
    chance = random.Random(seed)
    prefix, acknowledged = directory / "run" / "model.ckpt-7", 0
    for _ in range(rounds):
        process = prepared.Popen(
            [sys.executable, "-c", BEGIN + PROGRAMS[program], str(directory), str(acknowledged + 1)],
            stdout=subprocess.PIPE,
            bufsize=0,  # `communicate` does not see what `readline` has read ahead
            env=child_environment(),
        )
        assert process.stdout is not None
        watchdog = threading.Timer(WAIT_S, process.kill)
        watchdog.start()
        acknowledged = int(process.stdout.readline())
        pause(chance.uniform(0, 0.1))
        process.kill()
        rest, _ = process.communicate(timeout=WAIT_S)
        watchdog.cancel()
        acknowledged = int((rest.split() or [acknowledged])[-1])
        report = ckptd.verify(prefix)
        assert report.ok, report.problems
        assert ckptd.latest_checkpoint(prefix.parent) == str(prefix)
        values = set(ckptd.load_variable(prefix, "w").tolist())
        assert values in ({acknowledged}, {acknowledged + 1})  # the one under way may have been done, and not told


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_process_killed_while_it_overwrites_a_step_leaves_one_version_whole(program, tmp_path):
    overwrite_and_kill(program, tmp_path, ROUNDS, seed=1)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("program", PROGRAMS)
def test_hundreds_of_kills_while_overwriting(program, tmp_path):
    overwrite_and_kill(program, tmp_path, CAMPAIGN_ROUNDS, seed=fresh_seed())
