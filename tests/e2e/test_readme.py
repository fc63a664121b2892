"""What the README shows is run here, as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

import ckptd
from ckptd.cli import main

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


def test_the_training_loop_runs_on_four_ranks_resumes_and_is_read_as_shown(daemon, tmp_path):
    code = blocks("python")[0].replace('"127.0.0.1:7070"', repr(daemon.address)).replace("1000:", "stop:")
    assert "while step < stop:" in code
    program = tmp_path / "loop.py"
    program.write_text(
        "import sys\nimport numpy as np\nrank, stop = int(sys.argv[1]), int(sys.argv[2])\n"
        "w, step = np.zeros((250, 64), np.float32), np.array(0)\n"
        "def train_one_step(w): w += rank + 1\n" + code + "print(step)\n"
    )
    for stop in (5, 8):
        workers = [
            subprocess.Popen(
                [sys.executable, str(program), str(rank), str(stop)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=daemon.environment,
            )
            for rank in range(4)
        ]
        try:
            for worker in workers:
                out, err = worker.communicate(timeout=100)
                assert worker.returncode == 0, err
                assert out.strip() == str(stop)
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()

    run = daemon.root / "runs" / "mnist"
    import tensorflow as tf

    seen = {"ckptd": ckptd, "tf": tf}
    exec(blocks("python")[1].replace("/checkpoints/runs/mnist", str(run)), seen)
    expected = np.repeat(8 * np.float32([1, 2, 3, 4]), 250)[:, None] * np.ones((1, 64), np.float32)
    assert np.array_equal(seen["w"], expected)
    assert np.array_equal(seen["part"], expected[:333])
    assert np.array_equal(tf.train.load_checkpoint(str(run)).get_tensor("w"), expected)


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


def test_every_command_that_the_readme_names_exists(capsys):
    named = re.findall(r"^ckptd (\w+)", blocks("sh")[1], re.M)
    assert named
    for name in named:
        assert main.run([name, "--help"]) == 0
    capsys.readouterr()
