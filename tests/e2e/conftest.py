from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from ckptd.demo.processes import Daemon, child_environment


@dataclass
class RunningDaemon:
    """A daemon process of its own: its address, its root, and the environment in which its clients run."""

    address: str
    root: Path
    environment: dict[str, str]
    process: Daemon


@pytest.fixture
def daemon(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    process = Daemon(root, tmp_path / "daemon.log", tmp_path / "daemon.json")
    try:
        process.wait_until_ready()
        host, port = process.port()
        yield RunningDaemon(f"grpc://{host}:{port}", root, child_environment(), process)
    finally:
        code = process.stop()
    assert code == 0, (tmp_path / "daemon.log").read_text()
