"""Beside a daemon that is stopped, as by SIGSTOP or a host that swaps, every wait of a trainer ends in time."""

from __future__ import annotations

import os
import signal
import sys
import time

import numpy as np
import pytest

import ckptd
from ckptd.errors import UnavailableError
from tests import seams
from tests.starts import prepared

TENSORS = 30_000  # what is said about them fills a socket's buffer
TIMEOUT_S = 12.0  # a busy machine takes seconds for so many tensors
BOUND_S = 60.0


def test_save_returns_in_time_beside_a_stopped_daemon(daemon, monkeypatch):
    seams.SEND_TIMEOUT_S.put(monkeypatch, 1.0)
    arrays = {f"w{number}": np.ones(4, np.float32) for number in range(TENSORS)}
    with ckptd.Checkpointer(daemon.address, "r", rank=0, world_size=1, timeout_s=TIMEOUT_S) as checkpointer:
        for step in range(2):
            checkpointer.save(step, arrays).result(60)
        os.kill(daemon.process.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            pending = checkpointer.save(3, arrays)
            assert time.monotonic() - began < BOUND_S
            with pytest.raises(UnavailableError):
                pending.result(BOUND_S)
            assert pending.done()
        finally:
            os.kill(daemon.process.pid, signal.SIGCONT)
        assert checkpointer.save(4, arrays).result(60).step == 4


def test_a_save_that_a_stopped_daemon_may_still_commit_is_not_said_to_be_lost_for_certain(daemon):
    program = (
        "import os, signal, ckptd, numpy as np\n"
        f"c = ckptd.Checkpointer({daemon.address!r}, 'r', timeout_s=5.0)\n"
        "c.save(1, {'w': np.ones(3)}).result()\n"
        f"os.kill({daemon.process.pid}, signal.SIGSTOP)\n"
        "c.save(2, {'w': np.ones(3)})\n"
    )
    try:
        ended = prepared.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    finally:
        os.kill(daemon.process.pid, signal.SIGCONT)
    assert ended.returncode == 120, ended.stderr
    assert "ckptd: the save of step 2 of r at " in ended.stderr
    assert " may be lost: UnavailableError: " in ended.stderr
