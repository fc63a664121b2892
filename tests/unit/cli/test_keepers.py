"""What a command reads of the lock in its way: the address of the daemon that holds it."""

from __future__ import annotations

from concurrent import futures

import grpc
import numpy as np
import pytest

import ckptd
from ckptd.cli import main
from ckptd.cli.keepers import address_of
from ckptd.errors import ConflictError, NotPermittedError
from ckptd.storage.local.local_store import LocalStore
from ckptd.storage.lock_holder import LockHolder


@pytest.mark.parametrize("address", ["grpc://127.0.0.1:7070", "unix:///tmp/a:0", "127.0.0.1:8080"])
def test_a_lock_says_where_its_daemon_listens(address: str) -> None:
    holder = LockHolder.here("ckptd daemon", address)
    assert address_of(ConflictError("in use", actual=holder.line)) == address


@pytest.mark.parametrize(
    ("address", "note"),
    [
        ("grpc://127.0.0.1:0", "the lock does not say its port: pass --address"),
        ("", "it accepts no commands from other processes: wait until it has ended"),
    ],
)
def test_without_an_address_the_error_says_what_to_do(address: str, note: str) -> None:
    holder = LockHolder.here("ckptd daemon", address)
    with pytest.raises(ConflictError) as caught:
        address_of(ConflictError("in use", actual=holder.line))
    assert caught.value.__notes__ == [note]


class _Hostile(grpc.GenericRpcHandler):
    """Wants a token of every call, and records what it is shown."""

    def __init__(self):
        self.calls = []
        self.shown = []

    def service(self, handler_call_details):
        self.calls.append(handler_call_details.method)
        self.shown += [value for key, value in handler_call_details.invocation_metadata if key == "authorization"]
        return grpc.unary_unary_rpc_method_handler(
            lambda _, context: context.abort(grpc.StatusCode.UNAUTHENTICATED, "a token, please")
        )


@pytest.fixture
def hostile(tmp_path):
    """Yield a directory of a stranger, whose lock names the address of a listener; its address, and what it hears."""
    run = tmp_path / "runs" / "a"
    with ckptd.Checkpointer(tmp_path, run="runs/a") as ckpt:
        ckpt.save(1, {"w": np.zeros(1)}).result()
    heard = _Hostile()
    server = grpc.server(futures.ThreadPoolExecutor(1), handlers=(heard,))
    address = f"grpc://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    with LocalStore(str(tmp_path)).lock(".ckptd/lock", holder=LockHolder.here("ckptd serve", address).line):
        yield run, address, heard
    server.stop(0).wait()


@pytest.mark.parametrize(
    "command",
    [["rm", "{run}/model.ckpt-1"], ["pin", "{run}/model.ckpt-1"], ["unpin", "{run}/model.ckpt-1"],
     ["undelete", "{run}/model.ckpt-1"], ["prune", "{run}", "--keep", "1"], ["repair", "{run}"]],
)  # fmt: skip
@pytest.mark.parametrize("from_file", [False, True])
def test_a_lock_s_address_gets_no_token(hostile, command, from_file, tmp_path, monkeypatch, capsys):
    run, address, heard = hostile
    monkeypatch.delenv("CKPTD_ADDRESS", raising=False)
    arguments = [word.format(run=run) for word in command]
    if from_file:
        (tmp_path / "token").write_text("s3same")
        arguments += ["--token-file", str(tmp_path / "token")]
    else:
        monkeypatch.setenv("CKPTD_TOKEN", "s3same")
    assert main.run(arguments) == NotPermittedError.exit_code
    assert (bool(heard.calls), heard.shown) == (True, [])
    assert f"pass --address {address}" in capsys.readouterr().err


def test_an_address_that_its_owner_names_gets_the_token(hostile, monkeypatch, capsys):
    run, address, heard = hostile
    monkeypatch.delenv("CKPTD_ADDRESS", raising=False)
    monkeypatch.setenv("CKPTD_TOKEN", "s3same")
    assert main.run(["rm", f"{run}/model.ckpt-1", "--address", address]) == NotPermittedError.exit_code
    assert heard.shown == ["Bearer s3same"]
    monkeypatch.setenv("CKPTD_ADDRESS", address.removeprefix("grpc://"))
    assert main.run(["rm", f"{run}/model.ckpt-1"]) == NotPermittedError.exit_code
    assert heard.shown == ["Bearer s3same"] * 2
    assert "pass --address" not in capsys.readouterr().err


@pytest.mark.parametrize("command", [["rm", "--even-latest", "model.ckpt-1"], ["pin", "model.ckpt-1"], ["repair", ""]])
def test_what_no_daemon_does_is_not_in_the_audit_log_and_says_so(tmp_path, command, monkeypatch, capsys):
    with ckptd.Checkpointer(tmp_path, run="a") as ckpt:
        ckpt.save(1, {"w": np.zeros(1)}).result()
    monkeypatch.setenv("CKPTD_AUDIT_LOG", "/var/log/audit.jsonl")
    *flags, name = command
    assert main.run([*flags, str(tmp_path / "a" / name)]) == 0
    assert "this is not recorded in /var/log/audit.jsonl" in " ".join(capsys.readouterr().err.split())
