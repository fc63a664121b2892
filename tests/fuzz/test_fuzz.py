"""All decoders together are fed for seconds here, each for ten minutes by ``pytest -m campaign tests/fuzz``.

That is in a process of its own: atheris ends its process, and a decoder that hangs or fills memory ends only that.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]


def feed(name, seconds):
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.feeding", name, str(seconds)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        errors="backslashreplace",
        timeout=seconds + 120,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-4000:]
    assert "Done " in said, said[-4000:]
    print(name, *[line for line in said.splitlines() if line.startswith("Done ")])


def test_no_bytes_do_more_than_raise_our_errors():
    feed("all", 8)


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "message"])  # an empty request is refused
def test_inputs_begin_with_sound_ones(name):
    for seed in TARGETS[name].seeds:
        TARGETS[name].take(seed)


@pytest.mark.campaign
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", TARGETS)
def test_ten_minutes_each(name):
    feed(name, 600)
