"""A daemon that has never answered: what the user is told, and when the calls give up."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import trustme

import ckptd
from ckptd.engine.saves.coordinator import Coordinator
from ckptd.errors import (
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    NotPermittedError,
    UnavailableError,
    VersionMismatchError,
)
from ckptd.service.server import Server, ServerOptions
from ckptd.wire import status
from ckptd.wire.server_tls import Tls
from tests import seams
from tests.fakes.access import OPEN
from tests.fakes.waiting import eventually
from tests.starts import prepared
from tests.unit.client.served import Daemon

BOUND_S = 60.0

CALLS = {
    "latest": "c.latest()",
    "save": "c.save(1, {'w': np.ones(3)}).result()",
    "watch": "next(c.watch())",
}


@pytest.fixture
def nobody():
    """A port at which nobody listens: it is bound, so that nobody else comes to listen there."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_program_without_a_daemon_says_so_within_seconds_and_ends_with_a_typed_error(nobody, call):
    program = (
        "import sys, numpy as np, ckptd\n"
        f"c = ckptd.Checkpointer({nobody!r}, 'r', timeout_s=10.0)\n"
        "print('begun', flush=True)\n"
        f"try: {call}\n"
        "except ckptd.UnavailableError as error: print(error)\n"
    )
    with prepared.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "begun\n"
        began = time.monotonic()
        first = process.stderr.readline()
        took_s = time.monotonic() - began
        told, rest = process.communicate(timeout=BOUND_S)
    assert first.startswith(f"no daemon at {nobody}, trying for "), first
    assert "connection refused" in first
    assert took_s < 8.0  # it is two seconds, and what a busy machine adds; all in all ten are tried
    assert "connection refused" in told
    assert "tried for" in told
    assert "Traceback" not in rest


def test_a_daemon_that_was_never_there_is_not_waited_for_as_long_as_a_save_may_take(nobody, monkeypatch):
    seams.FIRST_CONTACT_S.put(monkeypatch, 0.5)
    with ckptd.Checkpointer(nobody, "r", timeout_s=600.0) as ckpt:
        began = time.monotonic()
        with pytest.raises(UnavailableError, match=r"connection refused.*\(tried for 0.5 s\)"):
            ckpt.latest()
        with pytest.raises(UnavailableError, match=r"connection refused.*\(tried for 0.5 s\)") as caught:
            ckpt.save(1, {"w": np.ones(3)}).result()
        with pytest.raises(UnavailableError, match="connection refused"):
            next(ckpt.watch())
        assert time.monotonic() - began < BOUND_S
    assert caught.value.__cause__ is None  # nothing of gRPC's is shown


def test_a_daemon_that_was_there_is_waited_for_longer(tmp_path, monkeypatch):
    seams.FIRST_CONTACT_S.put(monkeypatch, 0.3)
    daemon = Daemon(tmp_path / "root")
    with ckptd.Checkpointer(daemon.address, "r", timeout_s=BOUND_S) as ckpt:
        assert ckpt.latest() is None
        daemon.stop()
        back = threading.Timer(1.0, daemon.start)  # longer than a first contact is tried
        back.start()
        try:
            assert ckpt.latest() is None
        finally:
            back.join(BOUND_S)
            daemon.stop()


def test_an_error_of_the_daemon_is_a_contact_too(tmp_path, monkeypatch):
    seams.FIRST_CONTACT_S.put(monkeypatch, 0.3)
    daemon = Daemon(tmp_path / "root")
    with ckptd.Checkpointer(daemon.address, "r", timeout_s=BOUND_S) as ckpt:
        with pytest.raises(NotFoundError):
            ckpt.pin(7)
        daemon.stop()
        back = threading.Timer(1.0, daemon.start)
        back.start()
        try:
            assert ckpt.latest() is None
        finally:
            back.join(BOUND_S)
            daemon.stop()


def test_a_port_that_takes_connections_and_never_answers_is_told_too(caplog, monkeypatch):
    seams.FIRST_CONTACT_S.put(monkeypatch, 6.0)  # the line comes after two: a busy machine has four more for it
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with (
            caplog.at_level(logging.WARNING, "ckptd.client"),
            ckptd.Checkpointer(address, "r") as ckpt,
            pytest.raises(UnavailableError, match="did not answer in time"),
        ):
            ckpt.latest()
    assert any(f"no daemon at {address}, trying for" in record.message for record in caplog.records)


# Certificates.


@pytest.fixture
def secured(tmp_path):
    """Starts daemons that use TLS: name of the host in the certificate → address, and the authority as PEM."""
    daemons = []

    def start(host):
        authority = trustme.CA()
        issued = authority.issue_cert(host)
        chain = b"".join(one.bytes() for one in issued.cert_chain_pems)
        daemons.append(_Secured(tmp_path / f"root-{len(daemons)}", Tls(chain, issued.private_key_pem.bytes())))
        return daemons[-1].address, authority.cert_pem.bytes().decode()

    yield start
    for daemon in daemons:
        daemon.stop()


class _Secured(Daemon):
    """A daemon that uses TLS."""

    def __init__(self, root, tls):
        self._tls = tls
        super().__init__(root, listen="grpcs://127.0.0.1:0")

    def make_server(self, coordinator: Coordinator) -> Server:
        return Server(coordinator, ServerOptions(listen=(self._listen,), access=OPEN, tls=self._tls))


def test_a_certificate_that_is_not_trusted_is_told_at_once_and_gRPC_prints_nothing(secured):  # noqa: N802
    address, right = secured("127.0.0.1")
    wrong = trustme.CA().cert_pem.bytes().decode()
    program = (
        "import os, numpy as np, ckptd\n"
        "c = ckptd.Checkpointer(os.environ['AT'], 'r', ca=os.environ['CA'])\n"
        "try: print(c.save(1, {'w': np.ones(3)}).result().step)\n"
        "except ckptd.CkptdError as error: print(type(error).__name__, error)\n"
    )
    for ca, expected in ((wrong, "NotPermittedError the certificate of grpcs://"), (right, "1")):
        ended = prepared.run(
            [sys.executable, "-c", program],
            env={**os.environ, "AT": address, "CA": ca},
            capture_output=True,
            text=True,
            timeout=BOUND_S,
            check=True,
        )
        assert ended.stdout.startswith(expected), ended
        told = [line for line in ended.stderr.splitlines() if ", trying for " not in line]  # on a busy machine
        assert told == []


def test_a_certificate_for_another_host_and_a_port_without_tls_are_final_too(secured, tmp_path):
    address, authority = secured("another.example")
    plain = Daemon(tmp_path / "plain")
    try:
        for where, kind, message in (
            (address, NotPermittedError, "not valid for '127.0.0.1'"),
            (plain.address.replace("grpc:", "grpcs:"), InvalidRequestError, "does not use TLS"),
        ):
            with ckptd.Checkpointer(where, "r", ca=authority) as ckpt, pytest.raises(kind, match=message):
                ckpt.latest()
    finally:
        plain.stop()


# Refusals.


def test_another_version_is_told_at_once_and_by_a_class_of_its_own(tmp_path, monkeypatch):
    daemon = Daemon(tmp_path / "root")
    ours = seams.THIS_PEER.value

    def from_the_future(incarnation, **more):
        peer = ours(incarnation, **more)
        peer.version = "7.3.0"
        return peer

    seams.THIS_PEER.put(monkeypatch, from_the_future)
    try:
        with ckptd.Checkpointer(daemon.address, "r", timeout_s=BOUND_S) as ckpt:
            began = time.monotonic()
            for call in (lambda: ckpt.save(1, {"w": np.ones(3)}).result(), ckpt.latest):
                with pytest.raises(VersionMismatchError, match=r"7\.3\.0"):
                    call()
            assert time.monotonic() - began < BOUND_S / 2
    finally:
        daemon.stop()


def test_an_older_peer_reads_a_version_mismatch_as_a_conflict():
    packed = status.pack(VersionMismatchError("the client runs ckptd 7"))
    assert type(status.unpack(packed)) is VersionMismatchError
    with pytest.MonkeyPatch.context() as older:
        seams.FINER_ERRORS.put(older, {})
        assert type(status.unpack(packed)) is ConflictError


def test_a_run_in_use_is_tried_with_pauses_and_told_once_in_a_while(tmp_path, monkeypatch, caplog, another_process):
    seams.FIRST_CONFLICT_WAIT_S.put(monkeypatch, 3.0)
    daemon = Daemon(tmp_path / "root")
    try:
        with ckptd.Checkpointer(daemon.address, "r") as holder, caplog.at_level(logging.INFO):
            holder.save(1, {"w": np.ones(3)}).result()
            another_process()
            with ckptd.Checkpointer(daemon.address, "r") as second, pytest.raises(ConflictError, match="in use"):
                second.save(2, {"w": np.ones(3)}).result()
    finally:
        daemon.stop()
    refusals = [record for record in caplog.records if record.name == "ckptd.service" and "in use" in record.message]
    assert len(refusals) == 1
    told = [record for record in caplog.records if "in use" in record.message and "trying for" in record.message]
    assert len(told) == 1


@pytest.mark.parametrize("closed", ["socket", "directory"])
def test_a_socket_without_access_is_told_at_once(tmp_path, closed):
    directory = tmp_path / "run"
    directory.mkdir()
    path = directory / "ckptd.sock"
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(path))
        (path if closed == "socket" else directory).chmod(0)
        program = (
            "import contextlib, os, ckptd\n"
            "with contextlib.suppress(ckptd.UnavailableError):\n"  # what is imported late, another user may not read
            "    ckptd.Checkpointer('unix:///nowhere', 'r', timeout_s=0.1).latest()\n"
            f"c = ckptd.Checkpointer('unix://{path}', 'r')\n"
            "if os.getuid() == 0: os.setegid(65534), os.seteuid(65534)\n"
            "try: c.latest()\n"
            "except ckptd.NotPermittedError as error: print(error)\n"
        )
        began = time.monotonic()
        told = prepared.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
        assert time.monotonic() - began < BOUND_S
        directory.chmod(0o700)
    assert told.stdout.startswith(f"this user may not use the socket {path}"), told


def test_contact_is_looked_for_in_a_thread_that_ends(nobody):
    with contextlib.suppress(UnavailableError), ckptd.Checkpointer(nobody, "r", timeout_s=0.2) as ckpt:
        ckpt.latest()
    eventually(lambda: not any(thread.name == "ckptd-contact" for thread in threading.enumerate()), threading.enumerate)
