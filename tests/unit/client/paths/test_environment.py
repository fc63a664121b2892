"""What the environment says of the daemon holds for `Checkpointer` and for every command alike."""

from __future__ import annotations

import ast
import os
import socket
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import trustme

import ckptd
from ckptd.cli import main
from ckptd.client.paths.environment import address_or_local, given_address
from ckptd.engine.saves.coordinator import Coordinator
from ckptd.errors import InvalidRequestError, NotPermittedError, UnavailableError
from ckptd.service.gate import Access
from ckptd.service.server import Server, ServerOptions
from ckptd.storage.locations import open_store
from ckptd.wire import places
from ckptd.wire.server_tls import Tls
from tests import seams
from tests.unit.client.served import Daemon

TOKEN = "s3same"
W = {"w": np.arange(3.0)}


class _Guarded(Daemon):
    """A daemon that uses TLS and wants a token."""

    def __init__(self, root):
        self.authority = trustme.CA()
        issued = self.authority.issue_cert("127.0.0.1")
        chain = b"".join(one.bytes() for one in issued.cert_chain_pems)
        self._tls = Tls(chain, issued.private_key_pem.bytes())
        super().__init__(root, listen="grpcs://127.0.0.1:0")

    def make_coordinator(self):
        holder = f"ckptd serve, pid {os.getpid()} on {socket.gethostname()}, grpcs://127.0.0.1:0"
        return Coordinator(open_store(str(self.root)), settings=self.settings, holder=holder)

    def make_server(self, coordinator):
        return Server(
            coordinator, ServerOptions(listen=(self._listen,), tls=self._tls, access=Access(shared_token=TOKEN))
        )


@pytest.fixture
def guarded(tmp_path):
    daemon = _Guarded(tmp_path / "root")
    yield daemon
    daemon.stop()


@pytest.fixture
def environment(guarded, tmp_path, monkeypatch):
    (tmp_path / "ca.pem").write_bytes(guarded.authority.cert_pem.bytes())
    monkeypatch.setenv("CKPTD_ADDRESS", guarded.address)
    monkeypatch.setenv("CKPTD_TOKEN", TOKEN)
    monkeypatch.setenv("CKPTD_CA", str(tmp_path / "ca.pem"))


@pytest.mark.usefixtures("environment")
def test_programs_and_commands_find_the_daemon_and_show_it_the_token(guarded, tmp_path, capsys):
    with ckptd.Checkpointer(run="runs/a") as ckpt:
        assert ckpt.save(1, W).result().step == 1
        with closing(ckptd.follow(guarded.address, "runs/a", timeout_s=60.0)) as news:
            assert next(news).step == 1
    run = tmp_path / "root" / "runs" / "a"
    for arguments, expected in (
        (["status"], "runs/a"),
        (["health"], "SERVING"),
        (["watch", "--run", "runs/a", "--once"], "model.ckpt-1"),
        (["pin", "runs/a/model.ckpt-1"], "model.ckpt-1"),  # below the daemon's root
        (["unpin", f"{run}/model.ckpt-1"], "model.ckpt-1"),
    ):
        assert main.run(arguments) == 0, (arguments, capsys.readouterr().err)
        assert expected in capsys.readouterr().out, arguments


@pytest.mark.usefixtures("environment")
def test_a_wrong_authority_or_token_is_told_at_once(tmp_path, monkeypatch, capsys):
    (tmp_path / "ca.pem").write_bytes(trustme.CA().cert_pem.bytes())
    with ckptd.Checkpointer(run="r") as ckpt, pytest.raises(NotPermittedError, match="not trusted"):
        ckpt.latest()
    for command in ("status", "health"):
        assert main.run([command]) == NotPermittedError.exit_code
        assert "not trusted" in capsys.readouterr().err
    monkeypatch.setenv("CKPTD_CA", str(tmp_path / "nothing.pem"))
    with pytest.raises(InvalidRequestError, match="CKPTD_CA"):
        ckptd.Checkpointer(run="r")


def test_the_authority_of_the_environment_does_not_stand_in_the_way_of_an_address_without_tls(tmp_path, monkeypatch):
    monkeypatch.setenv("CKPTD_CA", str(tmp_path / "nothing.pem"))
    daemon = Daemon(tmp_path / "root")
    try:
        with ckptd.Checkpointer(daemon.address, run="r") as ckpt:
            assert ckpt.latest() is None
    finally:
        daemon.stop()


def test_a_store_in_the_environment_is_no_daemon_for_a_command_that_wants_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CKPTD_ADDRESS", str(tmp_path))
    with ckptd.Checkpointer(run="r") as ckpt:
        ckpt.save(1, W).result()
    assert main.run(["status"]) == InvalidRequestError.exit_code
    assert "CKPTD_ADDRESS" in capsys.readouterr().err


@pytest.fixture
def sockets(tmp_path, monkeypatch):
    """Where the sockets of the user and of the host would be."""
    monkeypatch.delenv("CKPTD_ADDRESS", raising=False)
    (tmp_path / "own").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "own"))
    seams.SYSTEM_SOCKET.put(monkeypatch, places.Address(path=str(tmp_path / "host.sock")))
    return tmp_path / "own" / "ckptd.sock", tmp_path / "host.sock"


def test_without_an_address_it_is_the_user_s_socket_then_that_of_the_host(sockets, tmp_path):
    own, of_the_host = sockets
    assert address_or_local(None) == f"unix://{own}"
    with socket.socket(socket.AF_UNIX) as host:
        host.bind(str(of_the_host))
        assert address_or_local(None) == given_address("unix://") == f"unix://{of_the_host}"
        daemon = Daemon(tmp_path / "root", listen=f"unix://{own}")
        try:
            assert address_or_local(None) == f"unix://{own}"
            with ckptd.Checkpointer(run="r") as ckpt:
                assert ckpt.save(1, W).result().step == 1
            with closing(ckptd.follow(run="r", timeout_s=60.0)) as news:
                assert next(news).step == 1
        finally:
            daemon.stop()


def test_the_log_and_errors_say_which_daemon_was_taken_and_why(sockets, monkeypatch, capsys, caplog):
    own, of_the_host = sockets
    expected = f"socket of the user's own daemon; without an address, CKPTD_ADDRESS, this socket and {of_the_host}"
    for address, why in ((None, expected), ("grpc://127.0.0.1:1", "CKPTD_ADDRESS names this address")):
        if address is not None:
            monkeypatch.setenv("CKPTD_ADDRESS", address)
        caplog.clear()
        with caplog.at_level("INFO", "ckptd.client"), ckptd.Checkpointer(run="r", timeout_s=0.2) as ckpt:
            assert f"run r is at {address or f'unix://{own}'}: " in caplog.text
            assert why in caplog.text
            with pytest.raises(UnavailableError) as never:
                ckpt.latest()
        assert any(why in note for note in never.value.__notes__)
        assert main.run(["status", "--timeout-s", "0.2"]) == UnavailableError.exit_code
        assert why in capsys.readouterr().err


def test_a_run_is_wanted(tmp_path):
    with pytest.raises(InvalidRequestError, match="run='runs/mnist'"):
        ckptd.Checkpointer(str(tmp_path))


def test_whatever_takes_an_authority_takes_a_client_s_certificate_and_its_key():
    takers = {}
    for path in Path(ckptd.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                names = {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)}
                if {"token", "ca"} <= names:
                    takers[f"{path.name}:{node.name}"] = names
    assert {"checkpointer.py:__init__", "following.py:follow", "dcp_writer.py:__init__"} <= set(takers)
    within = {"channels.py:open_channel"}  # takes both as one
    assert {taker for taker, names in takers.items() if not {"cert", "key"} <= names} == within
