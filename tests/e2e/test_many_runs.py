"""More runs than may be open at once, and more than one message of `status` holds."""

from __future__ import annotations

import json
import os

import numpy as np

import ckptd
from ckptd.cli import main
from ckptd.wire import addresses, methods
from ckptd.wire.channels import open_channel
from ckptd.wire.v1 import admin_pb2
from tests.fakes import schemas
from tests.fakes.waiting import eventually
from tests.starts.daemons import Daemon

MANY = 4100
WITHIN_S = 120.0


def test_more_runs_than_may_be_open_and_a_status_longer_than_a_message(tmp_path, capsys):
    root = tmp_path / "root"
    long = "/".join(["a" * 200] * 4)
    for number in range(MANY):
        records = root / long / f"{number:05d}" / ".ckptd"
        records.mkdir(parents=True)
        # The last thousands are damaged, so that the daemon has something to tell of each.
        (records / "epoch").write_text("1" if number < 100 else "x")
    process = Daemon(root, tmp_path / "log", tmp_path / "ready")
    try:
        process.wait_until_ready()
        host, port = process.port()
        with ckptd.Checkpointer(f"grpc://{host}:{port}", "honest", rank=0, world_size=1) as checkpointer:
            checkpointer.save(1, {"w": np.ones(3)}).result(WITHIN_S)
            assert len(os.listdir(f"/proc/{process.pid}/fd")) < 200
        eventually(lambda: "looked at" in (tmp_path / "log").read_text(), (tmp_path / "log").read_text)
        assert main.run(["status", f"{host}:{port}", "--json"]) == 0
        document = schemas.check("status", json.loads(capsys.readouterr().out))
        assert sum(run["quarantined"] is not None for run in document["runs"]) == 1024
        with open_channel(addresses.parse(f"{host}:{port}")) as channel:
            first = methods.Stub(channel, methods.ADMIN).Status(admin_pb2.StatusRequest(), timeout=WITHIN_S)
        assert first.next_after, "it was to be longer than one page"
        assert first.ByteSize() < 4 << 20
        assert len(document["runs"]) > len(first.runs)
    finally:
        code = process.stop()
    assert code == 0
