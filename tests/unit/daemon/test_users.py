"""A real `ckptd serve` whose Unix socket users share: it tells them apart, and a policy says what each may do.

An agent does so as a daemon that writes all of its checkpoints does.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import grpc
import numpy as np
import pytest

import ckptd
from ckptd.errors import NotPermittedError, UnavailableError
from ckptd.wire import addresses, methods, status
from ckptd.wire.channels import open_channel
from ckptd.wire.tickets import TICKET_KEY, TICKET_SUFFIX, ticket_for
from ckptd.wire.v1 import read_pb2
from tests.fakes.waiting import eventually
from tests.unit.daemon.conftest import Process

WAIT_S = 60
IS_ROOT = os.geteuid() == 0
USERS = (1001, 1002) if IS_ROOT else (os.geteuid(),)

# Root's own save comes first: it imports what another user may have no way to read, and a process that becomes
# another user shows that one's ticket.
PROGRAM = textwrap.dedent("""
    import os, sys
    import numpy as np
    import ckptd

    address, user, *runs = sys.argv[1:]

    def save(run):
        try:
            with ckptd.Checkpointer(address, run, timeout_s=60) as checkpointer:
                checkpointer.save(1, {"w": np.ones(4)}).result()
                assert np.array_equal(checkpointer.restore()["w"], np.ones(4))
        except ckptd.NotPermittedError as error:
            return str(error)
        return "saved"

    print(save("starts/r" + user))
    os.setuid(int(user))
    for run in runs:
        print(save(run))
""")


@pytest.fixture
def place():
    """A directory that every user may pass through; pytest's are closed to others."""
    directory = Path(tempfile.mkdtemp(prefix="ckptd-users-", dir="/tmp"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def policy(tmp_path):
    path = tmp_path / "policy.toml"
    rows = [(os.geteuid(), "starts/**"), *((user, f"of-{user}/**") for user in USERS)]
    path.write_text("".join(f'[[grant]]\nto = "uid:{to}"\nruns = "{runs}"\nrole = "save"\n' for to, runs in rows))
    return str(path)


@pytest.fixture(params=["whole", "agent"])
def role(request, serve, place):
    """The flags of each role that has ranks; an agent's coordinator is there, for our own user alone."""
    if request.param == "whole":
        return ()
    coordinator = f"unix://{place}/coordinator"
    serve("--role", "coordinator", "--listen", coordinator, name="coordinator").ready()
    return "--role", "agent", "--name", "h1", "--coordinator", coordinator


@pytest.fixture
def shared(serve, place, role):
    """Start a daemon, or an agent, whose socket all users may use."""

    def start(*flags, **options) -> Process:
        return serve(*role, "--listen", f"unix://{place}/s", "--socket-mode", "0666", *flags, **options).ready()

    return start


def said_by(user, address, *runs):
    """Return what a process of this user was told for each run that it saved to."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, address, str(user), *runs], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def list_run(channel, run, metadata=()):
    stub = methods.Stub(channel, methods.READ)
    try:
        stub.List(read_pb2.ListRequest(run=run), timeout=WAIT_S, metadata=metadata)
    except grpc.RpcError as error:
        return status.from_wire(error)
    return None


@pytest.mark.parametrize("memory", ["0", str(1 << 24)])
def test_each_user_of_a_shared_socket_has_what_the_policy_gives_it(shared, place, policy, memory):
    daemon = shared("--policy", policy, "--arena-bytes", memory)
    assert stat.S_IMODE((place / f"s{TICKET_SUFFIX}").stat().st_mode) == 0o666
    for user in USERS:
        own, foreign = f"of-{user}/r", f"of-{user + 1}/r"
        first, saved, refused = said_by(user, daemon.listening[0], own, foreign)
        assert (first, saved) == ("saved", "saved")
        assert f"uid:{user} may not save to run '{foreign}'" in refused


def test_a_call_without_a_ticket_is_no_users(shared, place, policy):
    daemon = shared("--policy", policy)
    with grpc.insecure_channel(addresses.parse(daemon.listening[0]).target) as channel:
        error = list_run(channel, "starts/r")
        assert isinstance(error, NotPermittedError)
        assert str(error).startswith("uid:other may not read run 'starts/r'")
        assert "does not show its user" in error.__notes__[0]
        forged = ((TICKET_KEY, f"{os.geteuid()}." + "0" * 64),)
        refused = list_run(channel, "starts/r", forged)
        assert isinstance(refused, UnavailableError)
        assert "restarted" in str(refused)
        ours = ((TICKET_KEY, ticket_for(f"{place}/s")),)
        assert list_run(channel, "starts/r", ours) is None


def test_a_ticket_counts_at_the_socket_alone(shared, place, tmp_path):
    token = tmp_path / "token"
    token.write_text("secret")
    token.chmod(0o600)
    daemon = shared("--listen", "127.0.0.1:0", "--token-file", str(token))
    ticket = ((TICKET_KEY, ticket_for(f"{place}/s")),)
    for address in daemon.listening:  # without a policy only the token lets in, as without tickets
        with open_channel(addresses.parse(address)) as channel:
            assert "no token" in str(list_run(channel, "a/r", ticket))
        with open_channel(addresses.parse(address), token="secret") as channel:
            assert list_run(channel, "a/r", ticket) is None


def test_a_job_goes_on_with_the_ticket_of_the_next_life(shared, place, policy):
    with ckptd.Checkpointer(f"unix://{place}/s", "starts/r", timeout_s=WAIT_S) as checkpointer:
        for step, ending in enumerate((signal.SIGKILL, signal.SIGTERM)):
            daemon = shared("--policy", policy, name=f"life-{step}")
            checkpointer.save(step, {"w": np.ones(4)}).result()
            daemon.process.send_signal(ending)
            daemon.wait()
        assert not (place / f"s{TICKET_SUFFIX}").exists()


def test_a_daemon_whose_socket_has_too_long_a_name_says_so_and_serves(serve, place):
    path = f"{place}/" + "x" * (addresses.MAX_SOCKET_PATH - len(f"{place}/"))
    daemon = serve("--listen", f"unix://{path}").ready()
    daemon.wait_for_log("users that call there can't be told apart")
    assert list_run(daemon.channel(), "a/r") is None


def test_a_socket_for_its_owner_gives_tickets_too(serve, place):
    daemon = serve("--listen", f"unix://{place}/s").ready()
    assert stat.S_IMODE((place / f"s{TICKET_SUFFIX}").stat().st_mode) == 0o600
    assert ticket_for(f"{place}/s").partition(".")[0] == str(os.geteuid())
    assert list_run(daemon.channel(), "a/r") is None


def test_crowds_at_the_socket_for_tickets_hold_nothing(shared, place):
    """Each connection is answered and closed: those that read nothing leave nothing in the daemon."""
    daemon = shared()
    descriptors = Path(f"/proc/{daemon.process.pid}/fd")
    before = len(list(descriptors.iterdir()))
    crowd = []
    for _ in range(500):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(f"{place}/s{TICKET_SUFFIX}")
        crowd.append(connection)
    assert list_run(daemon.channel(), "a/r") is None
    eventually(lambda: len(list(descriptors.iterdir())) < before + 50, "the end of the crowd's descriptors")
    for connection in crowd:
        connection.close()
