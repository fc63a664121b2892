"""`ckptd certs`, then a real daemon that knows its clients by their certificates, and each way to reach it."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import closing, contextmanager, suppress

import numpy as np
import pytest

import ckptd
from ckptd.cli import main
from ckptd.daemon import config, identity_files
from ckptd.errors import InvalidRequestError, NotPermittedError
from ckptd.service.gate import Access
from ckptd.wire import addresses, methods
from ckptd.wire.v1 import admin_pb2
from tests.fakes.waiting import eventually
from tests.unit.daemon.conftest import Process
from tests.unit.daemon.test_stream_processes import has_caller

W = {"w": np.arange(3.0)}
POLICY = """
[[grant]]
to = "cert:vision"
runs = "vision/**"
role = "save"

[[grant]]
to = "cert:boss"
runs = "**"
role = "admin"
"""


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    """What the command makes, for a daemon on this host and three clients."""
    where = tmp_path_factory.mktemp("set-up") / "certs"
    clients = [word for name in ("vision", "audio", "boss") for word in ("--client", name)]
    assert main.run(["certs", "127.0.0.1", "localhost", "--dir", str(where), *clients]) == 0
    return where


@pytest.fixture(scope="module")
def daemon(certs, tmp_path_factory):
    directory = tmp_path_factory.mktemp("daemon")
    (directory / "policy.toml").write_text(POLICY)
    files = {"--tls-cert": "server.crt", "--tls-key": "server.key", "--client-ca": "ca.crt"}
    started = Process(
        directory,
        "--listen",
        "grpcs://127.0.0.1:0",
        f"--policy={directory}/policy.toml",
        "--stream-processes=1",
        *(f"{flag}={certs / name}" for flag, name in files.items()),
    )
    try:
        yield started.ready()
    finally:
        started.end()


def shown(certs, name, authority="ca.crt"):
    """What a client passes."""
    return {
        "ca": str(certs / authority),
        "cert": str(certs / f"client-{name}.crt"),
        "key": (certs / f"client-{name}.key").read_text(),  # a file's path or its content, alike
    }


def test_a_certificate_is_an_identity_of_the_policy(daemon, certs):
    address = daemon.listening[0]
    with ckptd.Checkpointer(address, "vision/a", **shown(certs, "vision")) as ckpt:
        assert ckpt.save(1, W).result().step == 1
        with closing(ckptd.follow(address, "vision/a", timeout_s=60.0, **shown(certs, "vision"))) as news:
            assert next(news).step == 1
    for name, run in (("audio", "vision/a"), ("vision", "audio/a")):
        refused = pytest.raises(NotPermittedError, match=f"cert:{name} may not read")
        with ckptd.Checkpointer(address, run, **shown(certs, name)) as ckpt, refused:
            ckpt.latest()


def test_it_is_the_same_identity_where_streams_are_taken(daemon, certs, monkeypatch, caplog):
    monkeypatch.setenv("CKPTD_TRANSPORT", "stream")
    address, operator = daemon.listening[0], certs / "client-boss"
    with ckptd.Checkpointer(address, "vision/streamed", **shown(certs, "vision")) as ckpt:
        ckpt.save(1, W).result()
        identity = (operator.with_suffix(".crt").read_bytes(), operator.with_suffix(".key").read_bytes())
        status = methods.Stub(
            daemon.channel(ca=(certs / "ca.crt").read_bytes(), client_certificate=identity), methods.ADMIN
        )
        eventually(lambda: status.Status(admin_pb2.StatusRequest(), timeout=120).stream_ports, "the process")
        (port,) = status.Status(admin_pb2.StatusRequest(), timeout=120).stream_ports
        ckpt.save(2, W).result()
        assert has_caller(port)
    assert "takes no streams" not in caplog.text


def test_a_certificate_that_is_made_anew_is_used_without_a_restart(daemon, certs):
    def of_the_daemon():
        address = addresses.parse(daemon.listening[0])
        return ssl.get_server_certificate((address.host, address.port))

    before = of_the_daemon()
    for name in ("server.crt", "server.key"):
        (certs / name).unlink()
    assert main.run(["certs", "127.0.0.1", "--dir", str(certs)]) == 0
    eventually(lambda: of_the_daemon() != before, daemon.log.read_text)
    assert of_the_daemon() == (certs / "server.crt").read_text()
    with ckptd.Checkpointer(daemon.listening[0], "vision/renewed", **shown(certs, "vision")) as ckpt:
        assert ckpt.save(1, W).result().step == 1


def test_commands_show_it_by_options_and_by_the_environment(daemon, certs, monkeypatch, capsys):
    address = daemon.listening[0]
    options = [f"--ca={certs}/ca.crt", f"--cert={certs}/client-boss.crt", f"--key={certs}/client-boss.key"]
    with ckptd.Checkpointer(address, "vision/b", **shown(certs, "vision")) as ckpt:
        ckpt.save(1, W).result()
    monkeypatch.setenv("CKPTD_ADDRESS", address)
    commands = (["status"], ["health"], ["watch", "--run", "vision/b", "--once"], ["pin", "vision/b/model.ckpt-1"])
    for command in commands:
        assert main.run([*command, *options]) == 0, (command, capsys.readouterr().err)
    for variable, name in (("CA", "ca.crt"), ("CERT", "client-boss.crt"), ("KEY", "client-boss.key")):
        monkeypatch.setenv(f"CKPTD_{variable}", str(certs / name))
    for command in commands:
        assert main.run(command) == 0, (command, capsys.readouterr().err)
    assert "vision/b" in capsys.readouterr().out
    with ckptd.Checkpointer(run="vision/b") as ckpt:
        assert ckpt.latest().step == 1


def test_what_a_client_lacks_is_told_at_once(daemon, certs, tmp_path):
    foreign = tmp_path / "certs"
    assert main.run(["certs", "--client", "vision", "--dir", str(foreign)]) == 0
    expired = tmp_path / "expired"
    assert main.run(["certs", "127.0.0.1", "--client", "vision", "--dir", str(expired), "--days", "1e-9"]) == 0
    right = shown(certs, "vision")
    ours = {"ca": right["ca"]}
    server_s = {**ours, "cert": str(certs / "server.crt"), "key": str(certs / "server.key")}
    encrypted = {**right, "key": _encrypted(right["key"])}
    for passed, kind, message in (
        (ours, NotPermittedError, "wants a client's certificate"),
        ({**shown(foreign, "vision"), **ours}, NotPermittedError, "does not take the client's .* did not sign it"),
        ({**shown(expired, "vision"), **ours}, NotPermittedError, "does not take the client's .* it has expired"),
        (server_s, NotPermittedError, "does not take the client's .* it is not for clients"),
        ({**right, "ca": str(foreign / "ca.crt")}, NotPermittedError, "no authority known here signed it .*--ca"),
        ({**right, "cert": server_s["cert"]}, InvalidRequestError, "of another certificate"),
        (encrypted, InvalidRequestError, "is encrypted"),
        ({**right, "cert": "-----BEGIN NOTHING"}, InvalidRequestError, "cannot be used"),
    ):
        refused = pytest.raises(kind, match=message)
        with ckptd.Checkpointer(daemon.listening[0], "vision/c", **passed) as ckpt, refused:
            ckpt.latest()


def test_what_is_wrong_with_the_daemon_s_certificate_is_told(certs, tmp_path, capsys):
    expired, other = tmp_path / "expired", tmp_path / "other"
    assert main.run(["certs", "127.0.0.1", "--dir", str(expired), "--days", "1e-9"]) == 0
    assert main.run(["certs", "trainer.example", "10.0.0.5", "--dir", str(other)]) == 0
    for each in (expired, other):  # a comment is no fault
        (each / "ca.crt").write_text("Zertifikat für den Trainer\n" + (each / "ca.crt").read_text())
    for pair, authority, message in (
        (expired / "server", expired, "it has expired: the daemon's operator makes another"),
        (other / "server", other, "it is for trainer.example, 10.0.0.5 and not valid for '127.0.0.1'"),
        (certs / "client-vision", certs, "it is not for servers"),
    ):
        with _listening(pair) as port:
            assert main.run(["status", f"grpcs://127.0.0.1:{port}", f"--ca={authority}/ca.crt"]) == 9
        assert message in capsys.readouterr().err


def test_without_tls_at_a_daemon_with_tls_it_is_told_at_once(daemon):
    plain = daemon.listening[0].replace("grpcs:", "grpc:")
    assert main.run(["status", plain]) == InvalidRequestError.exit_code
    with ckptd.Checkpointer(plain, "r") as ckpt, pytest.raises(InvalidRequestError, match="uses TLS: write grpcs://"):
        ckpt.latest()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"--tls-key": "client-boss.key"}, "the key is of another certificate"),
        ({"--tls-cert": "server.key"}, "no PEM certificate"),
        ({"--client-ca": "server.key"}, "is not a PEM certificate"),
        ({"--tls-cert": "client-boss.crt", "--tls-key": "client-boss.key"}, ""),
    ],
)
def test_files_that_no_handshake_can_use_keep_a_daemon_from_starting(certs, changed, said):
    names = {"--tls-cert": "server.crt", "--tls-key": "server.key", "--client-ca": "ca.crt", **changed}
    settings = config.Config(**{flag[2:].replace("-", "_"): str(certs / name) for flag, name in names.items()})
    if said:
        with pytest.raises(InvalidRequestError, match=said):
            identity_files.read_tls(settings)
    else:
        found = identity_files.complaints(settings, Access(), identity_files.read_tls(settings))
        assert [each.partition("crt: ")[2] for each in found] == ["it is not for servers"]


@contextmanager
def _listening(pair):
    """Make TLS handshakes with this certificate, on a port that is yielded."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{pair}.crt", f"{pair}.key")

    def shake_hands():
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with suppress(OSError), connection:
                    context.wrap_socket(connection, server_side=True).recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=shake_hands)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_certificate_without_its_key_or_without_tls_is_refused(daemon, certs, tmp_path, monkeypatch):
    right = shown(certs, "vision")
    del right["key"]
    monkeypatch.setenv("CKPTD_KEY", str(certs / "client-boss.key"))  # of another certificate
    with pytest.raises(InvalidRequestError, match="belong together"):
        ckptd.Checkpointer(daemon.listening[0], "r", **right)
    monkeypatch.setenv("CKPTD_CERT", str(tmp_path / "nothing.crt"))
    with pytest.raises(InvalidRequestError, match="that CKPTD_CERT names can't be read"):
        ckptd.Checkpointer(daemon.listening[0], "r", ca=right["ca"])
    refused = pytest.raises(InvalidRequestError, match="write grpcs://")
    with ckptd.Checkpointer("grpc://127.0.0.1:1", "r", cert="-----BEGIN", key="-----BEGIN") as ckpt, refused:
        ckpt.latest()


def _encrypted(pem):
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(pem.encode(), None)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"a password"),
    ).decode()
