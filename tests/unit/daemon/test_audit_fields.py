"""What each record of the audit log has: nothing is left out that the daemon knows."""

from __future__ import annotations

import os
import signal
import socket
from dataclasses import replace

import grpc
import numpy as np
import pytest

import ckptd
from ckptd.access import policy, tokens
from ckptd.daemon.identity_records import described, differences
from ckptd.service.gate import Access
from ckptd.wire import methods
from ckptd.wire.server_tls import Tls
from ckptd.wire.v1 import admin_pb2
from tests.fakes.waiting import eventually
from tests.unit.daemon.test_audit_log import WAIT_S, are_numbered, records_of, told

RUN = "runs/a"
OF_A_CHECKPOINT = ("pin", "unpin", "delete", "prune", "undelete", "remove")

MORE = {
    ("join", "begun"): {"rank": 0, "world_size": 1, "host": socket.gethostname(), "pid": os.getpid()},
    ("join", "done"): {"rank": 0, "epoch": 1},
    ("leave", "done"): {"rank": 0, "epoch": 1, "host": socket.gethostname(), "pid": os.getpid()},
    ("save", "begun"): {"prefix": "model.ckpt-1", "epoch": 1},
    ("save", "committed"): {"prefix": "model.ckpt-1", "epoch": 1},
    ("remove", "done"): {"prefix": "model.ckpt-1", "step": 1},
    **{(event, "done"): {"checkpoint": "model.ckpt-2", "step": 2} for event in ("pin", "unpin", "delete", "undelete")},
    ("delete", "begun"): {"for_good": False, "even_latest": False},
    ("prune", "done"): {"checkpoint": "model.ckpt-2", "step": 2, "reason": "too old"},
    ("repair", "done"): {"changed": False, "num_checkpoints": 2, "left_out": [], "mended": []},
    ("evict", "begun"): {"rank": "all"},
    ("evict", "done"): {
        "evicted": [{"rank": 0, "host": socket.gethostname(), "pid": os.getpid()}],
        "ended_steps": [],
    },
    ("refusal", "refused"): {"method": "Delete"},
    ("identities", "done"): {"tokens_added": ["audio"], "tokens_removed": [], "has_new_policy": False},
    ("start", "done"): {"version": ckptd.__version__, "tokens": ["vision"], "grants": 0},
    ("stop", "begun"): {"reason": "SIGTERM"},
    ("stop", "done"): {"reason": "SIGTERM", "saves": "nothing was lost"},
}


def test_each_record_has_identity_peer_run_step_and_what_belongs_to_the_event(serve, tmp_path):
    path, file = tmp_path / "audit.jsonl", str(tmp_path / "tokens.json")
    shown = tokens.create(file, "vision")
    daemon = serve("--audit-log", str(path), "--tokens", file).ready()
    stub = methods.Stub(daemon.channel(token=shown), methods.ADMIN)
    named = {"run": RUN, "name": "model.ckpt-2"}
    how = {"run": RUN, "token": shown, "timeout_s": 30}
    with ckptd.Checkpointer(daemon.listening[0], max_to_keep=2, **how) as checkpointer:
        for step in (1, 2, 3):
            checkpointer.save(step, {"w": np.full(8, float(step))}).result(timeout=120)
    stub.Pin(admin_pb2.PinRequest(**named, pinned=True), timeout=WAIT_S)
    stub.Pin(admin_pb2.PinRequest(**named), timeout=WAIT_S)
    stub.Delete(admin_pb2.DeleteRequest(**named), timeout=WAIT_S)
    stub.Undelete(admin_pb2.UndeleteRequest(**named), timeout=WAIT_S)
    stub.Delete(admin_pb2.DeleteRequest(**named, pruned_because="too old"), timeout=WAIT_S)
    stub.Undelete(admin_pb2.UndeleteRequest(**named), timeout=WAIT_S)
    stub.Repair(admin_pb2.RepairRequest(run=RUN), timeout=WAIT_S)
    checkpointer = ckptd.Checkpointer(daemon.listening[0], max_to_keep=2, **how)
    checkpointer.save(4, {"w": np.zeros(8)}).result(timeout=120)
    stub.Evict(admin_pb2.EvictRequest(run=RUN), timeout=WAIT_S)
    checkpointer.close()
    with pytest.raises(grpc.RpcError):
        strange = methods.Stub(daemon.channel(token="ckptd_wrong"), methods.ADMIN)
        strange.Delete(admin_pb2.DeleteRequest(run=RUN, name="model.ckpt-3"), timeout=WAIT_S)
    tokens.create(file, "audio")
    daemon.process.send_signal(signal.SIGHUP)
    eventually(lambda: told(path, "identities", "done") and told(path, "refusal"), daemon.log.read_text)
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.wait() == 0

    assert are_numbered(path)
    for (event, outcome), fields in MORE.items():
        record = told(path, event, outcome)[0]
        for name, value in fields.items():
            assert record.get(name) == value, (record, name)
    for record in records_of(path):
        event = record["event"]
        assert record["time"].endswith("Z")
        if event in ("start", "stop", "identities"):
            assert record["identity"] == "daemon"
            continue
        assert record["identity"] == ("" if event == "refusal" else "token:vision"), record
        assert record["peer"] in ("unix", "ipv4:127.0.0.1"), record
        assert record["run"] == ("" if event == "refusal" else RUN), record
        assert event not in OF_A_CHECKPOINT or record["save_id"], record
        assert record["step"] is not None or event in ("join", "leave", "repair", "evict", "refusal"), record
    removed = told(path, "remove", "begun")[0]
    assert removed["reason"]


def test_what_is_told_of_identities_tells_two_states_apart_and_no_secret():
    rows = policy.parse({"grant": [{"to": ["token:b", "token:a"], "runs": ["x/**"], "role": "save"}]})
    before = Access(shared_token="hidden", policy=rows)
    tls = Tls(b"certificate", b"key", b"authority")
    first = described(before, tls)
    assert first == described(replace(before), tls)
    assert "hidden" not in str(first)
    for other in (
        described(replace(before, policy=policy.parse({"quota": [{"runs": ["x/**"], "stored_bytes": 5}]})), tls),
        described(before, Tls(b"another", b"key", b"authority")),
        described(before, Tls(b"certificate", b"key", b"another")),
    ):
        assert other != first
    assert differences(before, replace(before, shared_token="new"))["has_new_shared_token"]
