"""What the README shows; test_docs_blocks.py runs its blocks, and here is what they alone do not prove."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / "examples" / "train_numpy.py"
README = (REPOSITORY / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)


def test_the_two_commands_come_first():
    assert re.findall(r"^pip .*?(?=\s+#|$)", blocks("sh")[0], re.M) == [
        "pip install '.[demo]' && ckptd demo",
        "pip install -e '.[test]' && pytest",
    ]


def test_the_training_loop_continues_where_it_stopped(tmp_path):
    loop = blocks("python")[0].replace("/tmp/checkpoints", str(tmp_path))

    class CrashError(Exception):
        pass

    def train(steps_left):
        def train_one_step(state):
            nonlocal steps_left
            steps_left -= 1
            if steps_left < 0:
                raise CrashError
            state["w"] += 1

        names = {"state": {"w": np.zeros(3), "step": np.array(0)}, "train_one_step": train_one_step}
        try:
            exec(loop, names)
        finally:
            names["ckpt"].close()  # the end of a process does this; it may be repeated
        return names["state"], steps_left

    with pytest.raises(CrashError):
        train(650)
    state, left = train(1000)
    assert left == 600  # it began at step 600, the last that was saved
    assert state["step"] == 1000
    assert (state["w"] == 1000).all()


def test_the_example_trains_and_continues_with_another_number_of_workers(daemon):
    def run(workers, steps):
        done = subprocess.run(
            [
                sys.executable,
                str(EXAMPLE),
                daemon.address,
                f"--workers={workers}",
                f"--steps={steps}",
                "--save-every=20",
            ],
            capture_output=True,
            text=True,
            timeout=150,
            env=daemon.environment,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "continues" not in run(3, 40)
    out = run(2, 80)
    assert out.count("continues at step 40") == 2
    assert out.count("model.ckpt-80") == 2
