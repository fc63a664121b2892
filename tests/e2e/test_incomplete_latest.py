"""The newest checkpoint lost a file while no daemon ran: what is restored instead, and that everybody hears of it."""

from __future__ import annotations

import sys

import numpy as np

import ckptd
from ckptd.demo.processes import child_environment
from tests.starts import prepared
from tests.starts.daemons import Daemon

RESTORES = """
import sys, ckptd
from tests.starts import prepared
checkpointer = ckptd.Checkpointer(sys.argv[1], run="runs/a", timeout_s=60)
print(checkpointer.restore()["w"][0], checkpointer.restored.step)
"""


def test_a_restore_beside_a_daemon_says_that_a_newer_one_is_not_whole(tmp_path):
    root = tmp_path / "root"
    with ckptd.Checkpointer(str(root), run="runs/a") as checkpointer:
        for step in (1, 2, 3):
            checkpointer.save(step, {"w": np.full(4, float(step))}).result()
    (root / "runs/a/model.ckpt-3.data-00000-of-00001").unlink()
    daemon = Daemon(root, tmp_path / "daemon.log", tmp_path / "daemon.json")
    try:
        daemon.wait_until_ready()
        host, port = daemon.port()
        done = prepared.run(
            [sys.executable, "-c", RESTORES, f"grpc://{host}:{port}"],
            env=child_environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert done.stdout.split() == ["2.0", "2"]
        assert "model.ckpt-2; passed by: " in done.stderr
        assert "model.ckpt-3: " in done.stderr
        [run] = daemon.status().runs
        assert any("model.ckpt-3" in problem for problem in run.problems)
        with ckptd.Checkpointer(f"grpc://{host}:{port}", run="runs/a", timeout_s=60) as checkpointer:
            checkpointer.save(4, {"w": np.zeros(4)}).result()
            [run] = daemon.status().runs
            assert not run.problems
    finally:
        daemon.stop()
