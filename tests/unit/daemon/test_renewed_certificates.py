"""Certificates and the clients' authority are replaced while a daemon runs, at its own port and in stream processes."""

from __future__ import annotations

from dataclasses import replace

import grpc
import numpy as np
import pytest
import trustme

from ckptd import Checkpointer
from ckptd.wire import addresses, methods, status
from ckptd.wire.channels import open_channel
from ckptd.wire.v1 import admin_pb2, save_pb2
from tests.fakes.waiting import eventually
from tests.unit.daemon.test_process import pem_of

WAIT_S = 60


class Pki:
    """An authority for the daemon and one for its clients, and the files of the daemon."""

    def __init__(self, directory):
        self.ours, self.theirs = trustme.CA(), trustme.CA()
        cert, key = pem_of(self.ours.issue_cert("127.0.0.1"))
        self.flags = []
        for flag, content in (("cert", cert), ("key", key), ("client", self.theirs.cert_pem.bytes())):
            unfinished = directory / f"{flag}.new"
            unfinished.write_bytes(content)
            unfinished.replace(directory / flag)
            self.flags += [f"--tls-{flag}" if flag != "client" else "--client-ca", str(directory / flag)]
        self.shown = {
            "ca": self.ours.cert_pem.bytes(),
            "client_certificate": pem_of(self.theirs.issue_cert(common_name="trainer")),
        }


def answer(address, **shown):
    """Return what a Write stream that is wrong is answered: by the daemon, or by the handshake."""
    opened = save_pb2.WriteRequest(open=save_pb2.WriteOpen())
    with open_channel(address, **shown) as channel, pytest.raises(grpc.RpcError) as failed:
        list(methods.Stub(channel, methods.SAVE).Write(iter([opened]), timeout=WAIT_S))
    return type(status.from_wire(failed.value)).__name__


def test_a_replaced_authority_lets_in_no_more_clients_of_the_old_one_anywhere(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("CKPTD_TRANSPORT", "stream")
    before = Pki(tmp_path)
    daemon = serve("--listen", "grpcs://127.0.0.1:0", "--stream-processes", "1", *before.flags).ready()
    (tmp_path / "mine.crt").write_bytes(before.shown["client_certificate"][0])
    (tmp_path / "mine.key").write_bytes(before.shown["client_certificate"][1])
    files = {"ca": before.shown["ca"], "cert": str(tmp_path / "mine.crt"), "key": str(tmp_path / "mine.key")}
    with Checkpointer(daemon.listening[0], "runs/a", rank=0, world_size=1, **files) as ckpt:
        ckpt.save(1, {"w": np.ones(1000, np.float32)}).result(WAIT_S)
    admin = methods.Stub(daemon.channel(**before.shown), methods.ADMIN)
    eventually(lambda: admin.Status(admin_pb2.StatusRequest(), timeout=WAIT_S).stream_ports, "the process")
    (port,) = admin.Status(admin_pb2.StatusRequest(), timeout=WAIT_S).stream_ports
    own = addresses.parse(daemon.listening[0])
    both = (own, replace(own, port=port))
    assert [answer(each, **before.shown) for each in both] == ["InvalidRequestError"] * 2
    after = Pki(tmp_path)
    daemon.wait_for_log("read again")
    stale = {**after.shown, "client_certificate": before.shown["client_certificate"]}
    for each in both:
        eventually(lambda each=each: answer(each, **after.shown) == "InvalidRequestError", f"the new one at {each}")
        assert answer(each, **stale) == "UnavailableError"
        assert answer(each, **before.shown) == "UnavailableError"
    # A connection that was made is one of a stranger now, and is closed.
    with pytest.raises(grpc.RpcError) as failed:
        admin.Status(admin_pb2.StatusRequest(), timeout=WAIT_S)
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
