"""Coordinator and agent as processes of `ckptd serve`: what they say of themselves, and what they refuse."""

from __future__ import annotations

import json
import signal
import socket

import grpc
import pytest

from ckptd.agent.placing import this_boot
from ckptd.daemon import config, roles
from ckptd.engine.catalog import term
from ckptd.engine.hosts.messages import AgentLife, Attached, Hello
from ckptd.errors import InvalidRequestError
from ckptd.storage.locations import open_store
from ckptd.wire import agents, methods
from ckptd.wire.v1 import admin_pb2
from tests.fakes.waiting import eventually
from tests.fakes.worker import WAIT_S


def configured(**settings):
    return config.Config(root="/r", **settings)


@pytest.mark.parametrize(
    ("given", "environ", "expected"),
    [
        ("h1", {"SLURMD_NODENAME": "n7", "NODE_NAME": "k8"}, "h1"),
        (None, {"SLURMD_NODENAME": "n7", "NODE_NAME": "k8"}, "n7"),
        (None, {"SLURMD_NODENAME": " ", "NODE_NAME": "k8"}, "k8"),
    ],
)
def test_a_host_has_the_name_that_the_operator_or_the_scheduler_gives_it(given, environ, expected):
    assert roles.host_name(given, environ) == expected


def test_else_it_has_the_systems_name(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "trainer-3")
    assert roles.host_name(None, {}) == "trainer-3"
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    with pytest.raises(InvalidRequestError, match="--name NAME"):
        roles.host_name(None, {})


@pytest.mark.parametrize("name", ["a\nb", "x" * 300])
def test_a_name_that_no_log_can_show_is_refused(name):
    with pytest.raises(InvalidRequestError, match="--name NAME"):
        roles.host_name(name, {})


def test_what_the_operator_advertises_counts_and_not_where_it_listens():
    bound = ["grpcs://0.0.0.0:7070", "grpcs://[::]:7071", "grpcs://10.0.0.1:7072", "unix:///run/c.sock"]
    assert roles.reached_at(configured(), bound, "h1") == (
        "grpcs://h1:7070",
        "grpcs://h1:7071",
        "grpcs://10.0.0.1:7072",
        "unix:///run/c.sock",
    )
    advertised = ("grpcs://ib0.h1:7070", "10.0.0.1:7070")
    assert roles.reached_at(configured(advertise=advertised), bound, "h1") == advertised


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"coordinator": ("a:1",)}, "--coordinator is for --role agent"),
        ({"role": "coordinator", "name": "h"}, "--name is for --role agent"),
        ({"role": "coordinator", "arena_bytes": 1}, "--arena-bytes is for --role whole or agent"),
        ({"role": "coordinator", "shards": 3}, "--shards is for --role whole"),
        ({"role": "agent", "undo_s": 1.0}, "--undo-s is for --role whole or coordinator"),
        ({"role": "chief"}, "--role is none of whole, coordinator, agent"),
    ],
)
def test_a_flag_that_does_nothing_in_a_role_is_refused(flags, says):
    with pytest.raises(InvalidRequestError, match=says):
        config.load(flags, {})


def test_an_environment_may_be_shared_by_all_roles():
    environ = {"CKPTD_COORDINATOR": "a:1,b:2", "CKPTD_UNDO_S": "5", "CKPTD_NAME": "h"}
    for role in ("whole", "coordinator", "agent"):
        assert config.load({"role": role}, environ).config.coordinator == ("a:1", "b:2")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--role", "coordinator", "--listen=unix:///nonexistent/a", "--advertise", "h1:0"), "with its port"),
        (("--role", "agent", "--coordinator", "http://x"), "is not an address"),
        (("--role", "agent", "--name", "localhost"), "pass --name NAME"),
    ],
)
def test_what_cannot_be_meant_ends_the_start(serve, flags, says):
    process = serve(*flags)
    assert process.wait() == InvalidRequestError.exit_code
    assert says in process.log.read_text()


def test_a_coordinator_that_nobody_could_reach_is_refused():
    from ckptd.daemon.app import server_options

    with pytest.raises(InvalidRequestError, match="pass --listen"):
        server_options(configured(role="coordinator"), {})


def test_a_coordinator_lends_no_memory_and_the_root_says_where_it_is(serve):
    coordinator = serve("--role", "coordinator").ready()
    note = term.look(open_store(str(coordinator.root)))
    assert list(note.addresses) == coordinator.listening  # with the port that was chosen
    status = methods.Stub(coordinator.channel(), methods.ADMIN).Status(admin_pb2.StatusRequest(), timeout=WAIT_S)
    assert status.arena_limit_bytes == 0
    coordinator.process.send_signal(signal.SIGTERM)
    assert coordinator.wait() == 0


def test_an_agent_waits_for_its_coordinator_and_finds_it_by_the_root(serve, tmp_path):
    socket_path = tmp_path / "a.sock"
    agent = serve("--role", "agent", "--name", "h1", "--listen", f"unix://{socket_path}", name="a")
    agent.wait_for_log("no coordinator has opened it yet")
    assert not agent.ready_file.exists()
    coordinator = serve("--role", "coordinator", name="c").ready()
    agent.ready()
    agent.wait_for_log("attends the coordinator of term")
    coordinator.wait_for_log("agent on h1")
    ready = json.loads(agent.ready_file.read_text())
    assert ready["root"] == str(agent.root)
    agent.process.send_signal(signal.SIGTERM)
    assert agent.wait() == 0
    eventually(lambda: not socket_path.exists(), "the socket is removed")


def test_an_agent_of_a_port_has_a_socket_for_its_ranks_too(tmp_path):
    from ckptd.daemon.app import server_options

    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    agent = configured(role="agent", listen=("127.0.0.1:0",), insecure_loopback=True)
    assert [str(each) for each in server_options(agent, environ).listen] == [
        "127.0.0.1:0",
        f"unix://{tmp_path}/ckptd.sock",
    ]


def test_an_agent_on_another_host_is_refused_where_the_root_is_a_directory(serve):
    coordinator = serve("--role", "coordinator").ready()
    root_id = (coordinator.root / ".ckptd/id").read_text()
    stub = methods.Stub(coordinator.channel(), methods.AGENT)
    for boot, is_taken in ((this_boot(), True), ("another host's", False)):
        hello = Hello(AgentLife(f"h-{is_taken}", f"i-{is_taken}", 1.0, boot), root_id, 0)
        attending = stub.Attend(iter([agents.from_agent_to_wire(hello)]), timeout=WAIT_S)
        if is_taken:
            assert isinstance(agents.from_coordinator_from_wire(next(attending)), Attached)
            attending.cancel()
        else:
            with pytest.raises(grpc.RpcError, match="in a bucket, --root s3://.* --shared-directory, if all"):
                next(attending)
