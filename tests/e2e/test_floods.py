"""Every flood at its size, with an honest caller beside it: ``pytest -s -m campaign tests/e2e/test_floods.py``.

It prints the table of docs/security.md. The small ones of CI are in tests/unit/service.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import pytest

from ckptd.access import tokens
from ckptd.client.checkpointer import Checkpointer
from ckptd.errors import CkptdError
from ckptd.wire import addresses, methods
from ckptd.wire.channels import open_channel
from ckptd.wire.v1 import read_pb2
from tests.e2e.floods import FLOODS
from tests.fakes.waiting import eventually

BEFORE_S, DURING_S = 4.0, 12.0
LONGER_S = {"long_names": 60.0, "watchers": 30.0}
"""What takes its time to become as large as it is to be."""

SOON_S = 10.0
"""A second is promised. Two cores of which the flood's own process has one are slow: what is asserted is generous."""

MOST_GROWTH = 400 << 20
DESCRIPTORS = 1024
LAUNCHER = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, ({DESCRIPTORS}, {DESCRIPTORS}))
sys.argv = ["ckptd", *sys.argv[1:]]
from ckptd.cli.main import main
main()
"""


class Attacked:
    """A daemon with two identities."""

    def __init__(self, tmp_path: Path) -> None:
        self.tokens = {name: tokens.create(str(tmp_path / "tokens.json"), name) for name in ("honest", "flood")}
        self.socket_path, self.log = tmp_path / "s", tmp_path / "log"
        ready = tmp_path / "ready"
        flags = ["--root", tmp_path / "root", "--tokens", tmp_path / "tokens.json", "--ready-file", ready]
        listen = ["--listen", "127.0.0.1:0", "--listen", f"unix://{self.socket_path}", "--socket-mode", "0666"]
        with self.log.open("wb") as out:
            command = [sys.executable, "-c", LAUNCHER, "serve", *map(str, flags), *listen]
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        eventually(ready.exists, self.log.read_text)
        self.address = next(line for line in ready.read_text().split('"') if line.startswith("grpc://"))

    @property
    def memory_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.split("\n") if line.startswith("VmRSS")).split()[1]) << 10

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(60)


@dataclass
class Honest:
    """What an honest identity gets, and how soon: each kind of call again and again."""

    address: str
    token: str
    tried: dict[str, list[float]] = field(default_factory=lambda: {"call": [], "save": [], "failed": []})

    def __post_init__(self) -> None:
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=each) for each in (self._call, self._save)]
        for each in self._threads:
            each.start()

    def _call(self) -> None:
        while not self._is_over.is_set():
            began = time.monotonic()
            with open_channel(addresses.parse(self.address), token=self.token) as channel:
                list_ = methods.Stub(channel, methods.READ).List
                while True:
                    with contextlib.suppress(grpc.RpcError):  # its connection was one of the flood's host
                        list_(read_pb2.ListRequest(run="honest"), timeout=120, wait_for_ready=True)
                        break
            self.tried["call"].append(time.monotonic() - began)

    def _save(self) -> None:
        with Checkpointer(self.address, "honest", token=self.token, max_to_keep=2) as ckpt:
            while not self._is_over.is_set():
                began = time.monotonic()
                step = time.time_ns()
                try:
                    ckpt.save(step, {f"w{step}": np.ones(1000)}).result(120)  # another manifest each time
                    self.tried["save"].append(time.monotonic() - began)
                except CkptdError as error:
                    print(error)
                    self.tried["failed"].append(time.monotonic() - began)

    def end(self) -> dict[str, float]:
        """Return the 99th percentile of each kind, in seconds."""
        self._is_over.set()
        for each in self._threads:
            each.join(180)
        return {what: float(np.percentile(took, 99)) if took else 0.0 for what, took in self.tried.items()}


@pytest.fixture
def attacked(tmp_path, monkeypatch):
    monkeypatch.setenv("CKPTD_TRANSPORT", "stream")
    daemon = Attacked(tmp_path)
    yield daemon
    daemon.end()


@pytest.mark.campaign
@pytest.mark.parametrize("name", FLOODS)
def test_an_honest_caller_is_served_beside(name, attacked):
    with Checkpointer(attacked.address, "bulk", token=attacked.tokens["flood"]) as ckpt:
        ckpt.save(1, {"w": np.zeros(10_000_000)}).result(120)
    honest = Honest(attacked.address, attacked.tokens["honest"])
    time.sleep(BEFORE_S)
    before, memory, logged = honest.end(), attacked.memory_bytes, attacked.log.stat().st_size
    port = attacked.address.rpartition(":")[2]
    flood = subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.floods", name, port, str(attacked.socket_path), str(attacked.process.pid)],
        stdin=subprocess.PIPE,
        env={**os.environ, "CKPTD_TOKEN": attacked.tokens["flood"]},
        stdout=subprocess.DEVNULL,
    )
    try:
        honest, most, until = (
            Honest(attacked.address, attacked.tokens["honest"]),
            0,
            time.monotonic() + LONGER_S.get(name, DURING_S),
        )
        while time.monotonic() < until:
            most = max(most, attacked.memory_bytes)
            time.sleep(0.1)
        during = honest.end()
        assert flood.poll() is None
    finally:
        flood.kill()
        flood.wait()
    row = [
        name.replace("_", " "),
        *(f"{before[what] * 1e3:.0f} → {during[what] * 1e3:.0f}" for what in ("call", "save")),
        f"{memory >> 20} → {most >> 20}",
        f"{(attacked.log.stat().st_size - logged) >> 10}",
    ]
    print("\n| " + " | ".join(row) + " |")
    assert attacked.process.poll() is None
    assert not honest.tried["failed"]
    assert len(honest.tried["call"]) > 3
    assert max(during["call"], during["save"]) < SOON_S
    assert most - memory < MOST_GROWTH
