from __future__ import annotations

import socket
import threading
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from ckptd.errors import ConflictError, InvalidRequestError, NotPermittedError, UnavailableError
from ckptd.service.exposure import check_exposure
from ckptd.service.flow import Limits
from ckptd.service.gate import Access
from ckptd.service.refusal_log import RefusalLog
from ckptd.service.server import ServerOptions
from ckptd.wire import addresses, chunks, methods, status, versions
from ckptd.wire.channels import open_channel
from ckptd.wire.server_tls import Tls
from ckptd.wire.v1 import admin_pb2
from tests import seams
from tests.fakes.access import OPEN
from tests.unit.service.conftest import serving

WAIT_S = 60


def caught(call):
    """Return what a remote caller would catch."""
    with pytest.raises(grpc.RpcError) as failed:
        call()
    return status.from_wire(failed.value, address="here:1")


def health_of(channel, timeout=WAIT_S):
    stub = health_pb2_grpc.HealthStub(channel)
    return stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout).status


def test_health_and_reflection_answer(served):
    channel = served.channel()
    assert health_of(channel) == health_pb2.HealthCheckResponse.SERVING
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([asked]), timeout=WAIT_S)
    listed = {service.name for service in answer.list_services_response.service}
    assert {*methods.SERVICES, "grpc.health.v1.Health"} <= listed


def test_every_method_of_the_protos_is_answered(served):
    for method in methods.ALL:
        channel = served.channel()
        multi = channel.stream_stream if method.request_streaming else channel.unary_stream
        call = multi(method.path)(iter([b"\xff"]) if method.request_streaming else b"\xff", timeout=WAIT_S)
        error = caught(lambda call=call: list(call))
        assert isinstance(error, InvalidRequestError), (method, error)


def test_64_idle_write_streams_do_not_starve_a_health_check(served):
    never = threading.Event()

    def idle():
        never.wait(60)
        yield from ()

    stub = served.stub()
    calls = [stub.Write(idle(), timeout=120) for _ in range(64)]
    try:
        assert health_of(served.channel()) == health_pb2.HealthCheckResponse.SERVING
        started = time.monotonic()
        assert health_of(served.channel()) == health_pb2.HealthCheckResponse.SERVING
        assert time.monotonic() - started < 30  # half of what the idle ones last
        assert served.stub(methods.ADMIN).Status(admin_pb2.StatusRequest(), timeout=WAIT_S).root == "memory://fake"
    finally:
        never.set()
        for call in calls:
            call.cancel()


def test_an_idle_write_stream_is_ended_and_told_why():
    with serving(limits=Limits(stall_s=0.2)) as served:
        never = threading.Event()
        call = served.stub().Write(iter(lambda: never.wait(60), True), timeout=WAIT_S)
        error = caught(lambda: list(call))
        never.set()
        assert isinstance(error, UnavailableError)
        assert "0.2 s" in str(error)


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_a_message_above_4_mib_is_refused_also_when_it_is_small_on_the_way(served, compression):
    with unlimited_channel(served, compression) as channel:
        call = channel.unary_unary("/ckptd.wire.v1.SaveService/Leave")
        error = caught(lambda: call(bytes(chunks.MAX_MESSAGE_BYTES + 1), timeout=WAIT_S))
    assert isinstance(error, InvalidRequestError)
    assert "too large" in str(error)


def unlimited_channel(served, compression):
    """Open a channel without our own limit on what is sent."""
    return grpc.insecure_channel(
        addresses.parse(served.listening[0]).target,
        options=[("grpc.max_send_message_length", -1)],
        compression=compression,
    )


def test_a_bug_is_told_by_its_type_only_and_the_daemon_lives_on(served, caplog, monkeypatch):
    seams.REFUSAL_LOG.put(monkeypatch, RefusalLog())  # tests before this one may have used up the lines of this host
    served.coordinator.latest = lambda run, name: {}["secret detail"]
    stub = served.stub(methods.READ)
    error = caught(lambda: stub.Latest(methods.READ["Latest"].request_type(run="runs/a"), timeout=WAIT_S))
    assert "KeyError" in str(error)
    assert "secret" not in str(error)
    assert "secret detail" in caplog.text
    assert health_of(served.channel()) == health_pb2.HealthCheckResponse.SERVING


def test_a_peer_of_another_version_is_refused_with_both_versions(served):
    peer = versions.this_peer("x")
    peer.version = "9.1.0"
    error = caught(lambda: served.stub(methods.ADMIN).Status(admin_pb2.StatusRequest(peer=peer), timeout=WAIT_S))
    assert isinstance(error, ConflictError)
    assert "9.1.0" in str(error)
    assert versions.VERSION in str(error)


def test_no_method_answers_without_the_token(monkeypatch):
    seams.LATE_REFUSAL_S.put(monkeypatch, 0.0)
    with serving(access=Access(shared_token="secret-token")) as served:
        listed = [
            *(method.path for method in methods.ALL),
            "/grpc.health.v1.Health/Check",
            "/grpc.health.v1.Health/Watch",
        ]
        listed.append("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        streaming = {method.path for method in methods.ALL if method.request_streaming} | {listed[-1]}
        for path in listed:
            for metadata in ((), (("authorization", "Bearer wrong"),), (("authorization", "secret-token"),)):
                channel = served.channel()
                # A peer that sends nothing at all is refused as well.
                hold = threading.Event()
                requests = iter(lambda hold=hold: hold.wait(60) and b"", b"") if path in streaming else b""
                multi = channel.stream_stream if path in streaming else channel.unary_stream
                call = multi(path)(requests, timeout=WAIT_S, metadata=metadata)
                with pytest.raises(grpc.RpcError) as failed:
                    list(call)
                hold.set()
                assert failed.value.code() is grpc.StatusCode.UNAUTHENTICATED, path
                assert "secret-token" not in failed.value.details()
        assert health_of(served.channel(token="secret-token")) == health_pb2.HealthCheckResponse.SERVING


def test_a_unix_socket_may_be_opened_to_a_group(tmp_path):
    path = tmp_path / "d.sock"
    with serving(listen=[f"unix://{path}"], socket_mode=0o660):
        assert path.stat().st_mode & 0o777 == 0o660


def test_a_unix_socket_serves_its_owner_alone_and_goes_away(tmp_path):
    path = tmp_path / "d.sock"
    with serving(listen=[f"unix://{path}", "127.0.0.1:0"]) as served:
        assert served.listening[0] == f"unix://{path}"
        assert addresses.parse(served.listening[1]).port > 0
        assert path.stat().st_mode & 0o777 == 0o600
        assert health_of(served.channel(0)) == health_of(served.channel(1))
        reply = served.stub(methods.ADMIN).Status(admin_pb2.StatusRequest(), timeout=WAIT_S)
        assert list(reply.listening) == list(served.listening)
    assert not path.exists()


def test_a_socket_that_a_dead_daemon_left_is_taken_over_and_a_live_one_is_not(tmp_path):
    path = tmp_path / "d.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with serving(listen=[f"unix://{path}"]) as served:
        with pytest.raises(ConflictError, match="another daemon"), serving(listen=[f"unix://{path}"]):
            pass
        assert health_of(served.channel()) == health_pb2.HealthCheckResponse.SERVING


def test_a_file_in_the_place_of_a_socket_is_left_alone(tmp_path):
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(ConflictError, match="no socket"), serving(listen=[f"unix://{path}"]):
        pass
    assert path.read_text() == "data"


def test_two_servers_do_not_share_a_port(served):
    with pytest.raises(ConflictError, match="--listen"), serving(listen=[served.listening[0]]):
        pass


WITH_TOKEN = Access(shared_token="t")
EXPOSED = [
    ("0.0.0.0:1", {}),
    ("grpc://10.1.2.3:1", {}),
    ("[::]:1", {}),
    ("somewhere.example:1", {"access": WITH_TOKEN}),
]
TLS = Tls(b"cert", b"key")


@pytest.mark.parametrize(
    ("listen", "options"), [*EXPOSED, ("0.0.0.0:1", {"tls": TLS}), ("grpcs://0.0.0.0:1", {"tls": TLS})]
)
def test_an_address_for_strangers_needs_tls_and_an_identity(listen, options):
    with pytest.raises(NotPermittedError, match=r"--tls-cert.*--token-file") as refused:
        check_exposure(ServerOptions((addresses.parse(listen),), **options))
    assert addresses.parse(listen).host in str(refused.value)


@pytest.mark.parametrize(
    ("listen", "options", "secure"),
    [
        ("0.0.0.0:1", {"tls": TLS, "access": WITH_TOKEN}, True),
        ("grpcs://a.example:1", {"tls": Tls(b"c", b"k", b"ca")}, True),
        ("127.0.0.1:1", {"access": WITH_TOKEN}, False),
        ("127.0.0.1:1", {"access": OPEN}, False),
        ("localhost:1", {"tls": TLS, "access": OPEN}, False),
        ("[::1]:1", {"access": OPEN}, False),
        ("grpcs://127.0.0.1:1", {"tls": TLS, "access": OPEN}, True),
        ("grpcs://127.0.0.1:1", {"tls": Tls(b"c", b"k", b"ca")}, True),
        ("unix:///x.sock", {}, False),
    ],
)
def test_what_is_safe_may_listen(listen, options, secure):
    (address,) = check_exposure(ServerOptions((addresses.parse(listen),), **options))
    assert address.secure is secure


@pytest.mark.parametrize(
    ("listen", "options"),
    [
        ("127.0.0.1:1", {}),
        ("[::1]:1", {"tls": TLS}),
        ("localhost:1", {"tls": Tls(b"c", b"k", b"ca")}),  # without TLS there, no certificate can be shown
        ("grpcs://127.0.0.1:1", {"tls": TLS}),
    ],
)
def test_an_address_for_all_users_of_this_host_needs_an_identity(listen, options):
    with pytest.raises(NotPermittedError, match=r"--token-file.*leave out --listen.*--insecure-loopback") as refused:
        check_exposure(ServerOptions((addresses.parse(listen),), **options))
    assert addresses.parse(listen).host in str(refused.value)


def test_tls_without_a_certificate_is_refused():
    with pytest.raises(NotPermittedError, match="--tls-cert"):
        check_exposure(ServerOptions((addresses.parse("grpcs://127.0.0.1:1"),)))


def test_a_token_never_travels_unencrypted_to_another_host():
    with pytest.raises(NotPermittedError, match="grpcs://"):
        open_channel(addresses.parse("grpc://10.0.0.1:1"), token="t")


def test_nobody_there_is_said_in_words_that_help():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        address = f"127.0.0.1:{held.getsockname()[1]}"
        with open_channel(addresses.parse(address)) as channel:
            stub = methods.Stub(channel, methods.ADMIN)
            with pytest.raises(grpc.RpcError) as failed:
                stub.Status(admin_pb2.StatusRequest(), timeout=WAIT_S)
    error = status.from_wire(failed.value, address=address)
    assert str(error) == f"no daemon answers at {address}: connection refused; start one with `ckptd serve --root DIR`"
