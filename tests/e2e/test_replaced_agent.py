"""Ranks of an agent that another one of its name has replaced, at another address, do not wait until their timeout."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import ckptd
from ckptd.demo.processes import child_environment
from tests.fakes.waiting import eventually

WAIT_S = 60.0
TIMEOUT_S = 300.0  # of a save: more than this test may take


@pytest.fixture
def begin(tmp_path):
    started = []
    (tmp_path / "root").mkdir()

    def start(name: str, *options: str) -> subprocess.Popen[bytes]:
        where = ["--root", tmp_path / "root", "--listen", f"unix://{tmp_path}/{name}.sock"]
        command = ["serve", *where, "--ready-file", tmp_path / f"{name}.ready", *options]
        with (tmp_path / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "ckptd", *map(str, command)], stdout=log, stderr=log, env=child_environment()
            )
        started.append(process)
        eventually((tmp_path / f"{name}.ready").exists, (tmp_path / f"{name}.log").read_text, within_s=WAIT_S)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait(WAIT_S)


def test_its_ranks_are_told_and_begin_anew_at_the_later_one(begin, tmp_path: Path):
    begin("coordinator", "--role", "coordinator", "--agent-lease-s", "3")
    first = begin("first", "--role", "agent", "--name", "a")
    arrays = {"w": np.ones(100)}
    with ckptd.Checkpointer(f"unix://{tmp_path}/first.sock", run="r", timeout_s=TIMEOUT_S) as rank:
        rank.save(1, arrays).result()
        begin("later", "--role", "agent", "--name", "a")
        assert first.wait(WAIT_S) == 4
        began_at = time.monotonic()
        for step in (2, 3):
            with pytest.raises(ckptd.SessionAbortedError, match=r"first\.sock has ended.*another agent of the name a"):
                rank.save(step, arrays).result()
        assert time.monotonic() - began_at < TIMEOUT_S / 2
    with ckptd.Checkpointer(f"unix://{tmp_path}/later.sock", run="r", timeout_s=WAIT_S) as rank:
        rank.save(2, arrays).result()
        assert [each.step for each in rank.checkpoints()] == [1, 2]
    begin("first", "--role", "agent", "--name", "b")
    assert not list(tmp_path.glob("*.ended"))
