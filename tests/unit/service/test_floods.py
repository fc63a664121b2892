"""Identities that take as much as they get, with an honest one beside them: that one is served within a second."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import struct
import time
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest

from ckptd.access import policy, tokens
from ckptd.access.tokens import Token, Tokens
from ckptd.client.daemon.arena_link import ArenaLink
from ckptd.engine.manifest import Manifest
from ckptd.errors import NotPermittedError, UnavailableError
from ckptd.format.crc32c import crc32c
from ckptd.service.flow import Limits
from ckptd.service.gate import Access
from ckptd.service.server import ArenaOptions
from ckptd.wire import addresses, frames, manifests, methods, status, versions
from ckptd.wire.chunks import CHUNK_BYTES, Chunk
from ckptd.wire.v1 import admin_pb2, arena_pb2, common_pb2, read_pb2
from tests import seams
from tests.fakes.raw_http2 import HEADERS, PING, RST_STREAM, SETTINGS, RawConnection, frame, headers
from tests.fakes.waiting import eventually
from tests.unit.service.conftest import serving
from tests.unit.service.test_save import MANIFEST, SAVE
from tests.unit.service.test_server import WAIT_S
from tests.unit.service.test_write import Sending

KEY = "runs/a/m-1.data-00000-of-00001"
REQUEST = read_pb2.ReadRequest(key=KEY, size=-1)
STALL_S = 90.0
"""What the honest caller would wait for, if the flood kept what it holds."""

SOON_S = 40.0
"""A second is promised; the hosts that run tests are slow, and this is still far from `STALL_S`."""


def tokens_of(*names):
    return Tokens({name: Token(name, tokens.hash_of(f"{tokens.PREFIX}{name}"), 0.0) for name in names})


@pytest.fixture(params=["honest", "flood"], ids=["another identity", "the same identity"])
def honest(request):
    return f"{tokens.PREFIX}{request.param}"


@pytest.fixture
def served():
    limits = Limits(stall_s=STALL_S, read_streams=8, write_streams=8, write_streams_per_peer=6)
    with serving(access=Access(tokens=tokens_of("honest", "flood")), limits=limits) as running:
        yield running


def stub(served, token=f"{tokens.PREFIX}flood", service=methods.SAVE):
    return served.stub(service, token=token)


def is_soon(began):
    return time.monotonic() - began < SOON_S


class Silent:
    """A stream that is opened, and on which nothing comes."""

    def __init__(self, method):
        self._never = queue.Queue()
        self.call = method.future(iter(self._never.get, None), timeout=WAIT_S)

    def end(self):
        self._never.put(None)
        self.call.cancel()


def test_silent_manifests_hold_up_no_first_save(served, honest):
    hostile = served.channel(token=f"{tokens.PREFIX}flood")
    flood = [Silent(methods.Stub(hostile, methods.SAVE).PutManifest) for _ in range(6)]
    methods.Stub(hostile, methods.ADMIN).Status(admin_pb2.StatusRequest(), timeout=WAIT_S)  # they are there before it
    began = time.monotonic()
    stub(served, honest).PutManifest(manifests.manifest_parts(MANIFEST), timeout=WAIT_S)
    assert is_soon(began)
    for each in flood:
        each.end()


def test_idle_writers_hold_up_no_lane(served, honest):
    save = served.coordinator.plan(SAVE, (10,))
    flood = [Sending(stub(served), save) for _ in range(6)]
    for each in flood[:4]:  # half of all are a run's
        assert next(each.call).received == 0
    began = time.monotonic()
    lane = Sending(stub(served, honest), save)
    assert next(lane.call).received == 0
    assert is_soon(began)
    ended = eventually(lambda: [each for each in flood if not each.call.is_active()])
    assert all(refusal(each) for each in ended)
    for each in (*flood, lane):
        each.end()


def refusal(sending):
    """Return whether a stream that held a place was ended, by an error that says whose it was."""
    try:
        list(sending.call)
    except grpc.RpcError as error:
        ours = status.from_wire(error)
        assert isinstance(ours, UnavailableError)
        assert "token:flood at ipv4:127.0.0.1 moved nothing" in str(ours)
        return True
    return False


def test_slow_readers_hold_up_no_read(served, honest):
    served.coordinator.store.put(KEY, bytes(40 * CHUNK_BYTES))
    hostile = [stub(served, service=methods.READ).Read(REQUEST, timeout=WAIT_S) for _ in range(8)]
    for each in hostile[:6]:
        next(each)  # its description; nothing else is taken
    began = time.monotonic()
    taken = stub(served, honest, methods.READ).Read(REQUEST, timeout=WAIT_S)
    assert sum(len(block) for block in list(taken)[1:]) == 40 * CHUNK_BYTES
    assert is_soon(began)
    for each in hostile:
        each.cancel()


@pytest.fixture
def arenas(tmp_path, monkeypatch):
    seams.ARENA_HELLO_S.put(monkeypatch, 0.2)
    path = tmp_path / "a.sock"
    with serving(arena=ArenaOptions(1 << 20, None, path)):
        yield str(path)


@pytest.mark.parametrize(
    "sent", [b"", b"\0\0\0\5", struct.pack("<I", 4096) + b"x" * 4095], ids=["none", "5 MiB", "4 KiB"]
)
def test_what_shows_no_key_soon_is_hung_up_on_and_others_are_lent_memory(arenas, sent):
    flood = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    for each in flood:
        each.settimeout(WAIT_S)
        each.connect(arenas)
        each.sendall(sent)
    assert [each.recv(1) for each in flood] == [b""] * 20
    with socket.socket(socket.AF_UNIX) as honest:
        honest.settimeout(WAIT_S)
        honest.connect(arenas)
        hello = arena_pb2.ArenaRequest(hello=arena_pb2.ArenaHello(peer=versions.this_peer("me"), key=b"?" * 16))
        frames.send_frame(honest, hello.SerializeToString())
        answer = arena_pb2.ArenaReply.FromString(frames.receive_frame(honest)[0])
        assert isinstance(status.unpack(answer.error), NotPermittedError)  # heard, and its key is another daemon's
    for each in flood:
        each.close()


def test_writers_above_their_rate_are_delayed_not_aborted_and_others_are_not():
    rows = policy.parse({"limit": [{"to": "token:flood", "bytes_per_s": CHUNK_BYTES}]})
    limited = replace(rows, grants=None)
    limits = Limits(stall_s=STALL_S, write_streams=4, write_streams_per_peer=3)
    with serving(access=Access(tokens=tokens_of("honest", "flood"), policy=limited), limits=limits) as served:
        save = served.coordinator.plan(SAVE, (10 * CHUNK_BYTES,))
        data = bytes(CHUNK_BYTES)
        flood = [Sending(stub(served), save) for _ in range(2)]  # half of all are a run's
        for each in flood:
            next(each.call)
            for _ in range(2):
                each.send(Chunk(0, crc32c(data), data))
        eventually(lambda: served.coordinator.lanes[0].excused)
        began = time.monotonic()
        lane = Sending(stub(served, f"{tokens.PREFIX}honest"), save)
        next(lane.call)  # it has the place of one that is delayed
        assert is_soon(began)
        for each in (*flood, lane):
            each.end()


def test_honest_calls_are_answered_while_a_large_manifest_is_read(served):
    num_slices = 1_000_000
    ones = np.ones(num_slices, np.int64)
    zeros = np.zeros(num_slices, np.int64)
    columns = {"sizes": 4 * ones, "lengths_sizes": zeros, "lengths_covered": zeros}
    manifest = Manifest(
        ("w",), (1,), ((num_slices,),), zeros, np.arange(num_slices), ones, lengths_crcs=zeros.astype("u4"), **columns
    )
    parts = list(manifests.manifest_parts(manifest))
    status_of = stub(served, f"{tokens.PREFIX}honest", methods.ADMIN).Status
    status_of(admin_pb2.StatusRequest(), timeout=WAIT_S)
    taken = stub(served).PutManifest.future(iter(parts), timeout=WAIT_S)
    took = []
    while not taken.done():
        began = time.monotonic()
        status_of(admin_pb2.StatusRequest(), timeout=WAIT_S)
        took.append(time.monotonic() - began)
    taken.result()
    assert len(took) > 3  # several were answered meanwhile
    assert max(took) < SOON_S


def test_a_user_has_three_quarters_of_the_connections_for_memory_and_hears_that_they_are_its_own(tmp_path):
    path = str(tmp_path / "a.sock")
    with serving(arena=ArenaOptions(1 << 20, None, Path(path))), contextlib.ExitStack() as opened:
        for _ in range(384):
            opened.enter_context(socket.socket(socket.AF_UNIX)).connect(path)
        mine = f"user {os.geteuid()} has 384 connections for shared memory, all users at most 512, one at most 384"
        eventually(lambda: mine in refusal_of_link(path))  # once the others were accepted


def refusal_of_link(path):
    with pytest.raises(UnavailableError) as refused:
        ArenaLink.connect(common_pb2.ArenaAddress(path=path, key=b"?" * 16), versions.this_peer("me"))
    return str(refused.value)


def _half_closed(address):
    connection = RawConnection(address)
    connection.half_close()
    return connection


def _sent(data):
    def connect(address):
        connection = RawConnection(address)
        with contextlib.suppress(OSError):  # it may be ended for that
            connection.send(data)
        return connection

    return connect


def _begun_handshake(address):
    host, port = addresses.parse(address).host, addresses.parse(address).port
    connection = socket.create_connection((host, port), WAIT_S)
    connection.sendall(bytes((22, 3, 1, 2, 0, 1)))
    return connection


CALL = headers(b"/ckptd.wire.v1.AdminService/Status")


@pytest.mark.parametrize(
    "connect",
    [
        _half_closed,
        _begun_handshake,
        _sent(frame(PING, 0, 0, bytes(8)) * 2000),
        _sent(frame(SETTINGS, 0, 0, struct.pack(">HI", 3, 100)) * 2000),
        _sent(b"".join(frame(HEADERS, 4, n, CALL) + frame(RST_STREAM, 0, n, bytes(4)) for n in range(1, 1001, 2))),
        _sent(frame(HEADERS, 4, 1, headers(b"/x", *((b"x-%d" % n, bytes(1000)) for n in range(60))))),
    ],
    ids=["half-closed", "handshakes", "pings", "settings", "resets", "metadata"],
)
def test_frames_by_hand_hold_up_no_call(served, connect):
    with contextlib.ExitStack() as opened:
        for _ in range(20):
            opened.enter_context(connect(served.listening[0]))
        began = time.monotonic()
        honest = stub(served, f"{tokens.PREFIX}honest", methods.ADMIN)
        eventually(lambda: is_answered(honest.Status))
        assert is_soon(began)


def is_answered(call):
    """Call as clients do: where thousands come at once gRPC drops some, as cancelled, and clients repeat them."""
    asked = call.future(admin_pb2.StatusRequest(), timeout=WAIT_S)
    assert asked.exception() is None or asked.code() is grpc.StatusCode.CANCELLED
    return asked.exception() is None
