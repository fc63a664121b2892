from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from ckptd.demo.processes import child_environment
from ckptd.wire import methods
from ckptd.wire.v1 import admin_pb2
from tests.fakes.waiting import eventually
from tests.places import on_disk as tmp_path
from tests.starts.daemons import Daemon

__all__ = ["tmp_path"]

IDLE_WITHIN_S = 120.0


@dataclass
class RunningDaemon:
    """A daemon process of its own: its address, its root, and the environment in which its clients run."""

    address: str
    root: Path
    environment: dict[str, str]
    process: Daemon

    def wait_until_idle(self) -> None:
        """Wait until no save is under way: what the dead had handed over whole is committed, the rest is undone."""
        with grpc.insecure_channel(self.address.removeprefix("grpc://")) as channel:
            admin = methods.Stub(channel, methods.ADMIN)
            request = admin_pb2.StatusRequest()
            eventually(
                lambda: not any(run.saves for run in admin.Status(request, timeout=IDLE_WITHIN_S).runs),
                "the end of the dead's saves",
                within_s=IDLE_WITHIN_S,
            )


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
