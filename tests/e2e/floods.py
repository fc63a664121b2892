"""Floods, each a process of its own: ``python -m tests.e2e.floods NAME PORT SOCKET PID``, until its input ends.

``CKPTD_TOKEN`` is its identity. Each takes what it can get, as fast as Python can, and goes on whatever it is answered.
"""

from __future__ import annotations

import array
import contextlib
import itertools
import os
import queue
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np

from ckptd.client.checkpointer import Checkpointer
from ckptd.engine.identity import Member, RunOptions
from ckptd.wire import addresses, convert, methods, versions
from ckptd.wire.channels import open_channel
from ckptd.wire.v1 import admin_pb2, read_pb2, save_pb2, watch_pb2
from tests.fakes.raw_http2 import HEADERS, PING, RST_STREAM, SETTINGS, RawConnection, frame, headers
from tests.fakes.worker import Worker

TOKEN = os.environ.get("CKPTD_TOKEN", "")
MANY_NAMES = 4096
PARALLEL = 4
"""Threads of a flood that sends as fast as it can."""

_STATUS = f"/{methods.ADMIN['Status'].service}/Status".encode()


class Target:
    """The daemon under attack."""

    def __init__(self, port: str, socket_path: str, pid: str) -> None:
        self.port, self.socket_path, self.pid = int(port), socket_path, int(pid)
        self.address = f"grpc://127.0.0.1:{port}"

    def channel(self, token: str = TOKEN) -> grpc.Channel:
        return open_channel(addresses.parse(self.address), token=token)

    def stub(self, service: Any, token: str = TOKEN) -> methods.Stub:
        return methods.Stub(self.channel(token), service)

    def raw(self) -> RawConnection:
        return RawConnection(self.address, timeout_s=5.0)


def again(work: Callable[[], object]) -> None:
    """Do it for ever."""
    while True:
        try:
            work()
        except (OSError, grpc.RpcError, ValueError):
            time.sleep(0.01)
        except Exception as error:  # of ckptd, say: a refusal
            if not hasattr(error, "retryable"):
                raise
            time.sleep(0.01)


def in_threads(number: int, work: Callable[[int], object]) -> None:
    for index in range(number):
        threading.Thread(target=again, args=(lambda index=index: work(index),), daemon=True).start()


def kept_open(number: int, connect: Callable[[], Any]) -> None:
    """Have so many of something open, and replace what is ended."""

    def hold(_: int) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
            mine = [opened.enter_context(connect()) for _ in range(number // PARALLEL)]
            time.sleep(12.0 if mine else 0.1)

    in_threads(PARALLEL, hold)


def idle_connections(target: Target) -> None:
    kept_open(1100, target.raw)


def arena_sockets(target: Target) -> None:
    """A frame of 4 MB is begun, and descriptors are passed, before any key is shown."""
    sent = struct.pack("<I", 4 << 20) + bytes(4000)
    passed = array.array("i", [0] * 8)

    def connect() -> socket.socket:
        link = socket.socket(socket.AF_UNIX)
        link.settimeout(1.0)
        link.connect(f"{target.socket_path}.arena")
        with contextlib.suppress(OSError):
            link.sendmsg([sent], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)])
        return link

    kept_open(1100, connect)


def _silent(method: Any, first: Any = None) -> None:
    requests: queue.Queue[Any] = queue.Queue()
    if first is not None:
        requests.put(first)
    call = method.future(iter(requests.get, None)) if hasattr(method, "future") else method(iter(requests.get, None))
    with contextlib.suppress(grpc.RpcError):
        call.result() if hasattr(call, "result") else list(call)
    requests.put(None)


def silent_manifests(target: Target) -> None:
    stub = target.stub(methods.SAVE)
    in_threads(16, lambda _: _silent(stub.PutManifest))


def slow_readers(target: Target) -> None:
    stubs = [target.stub(methods.READ) for _ in range(4)]

    def read(index: int) -> None:
        call = stubs[index % 4].Read(read_pb2.ReadRequest(key="bulk/model.ckpt-1.data-00000-of-00001", size=-1))
        for _ in call:
            time.sleep(0.4)

    in_threads(64, read)


def idle_writers(target: Target) -> None:
    worker = Worker(target.channel(), 0, 1, run="flood/writers").join()
    steps = itertools.count(1)
    stubs = [target.stub(methods.SAVE) for _ in range(4)]
    opened: list[Any] = []

    def declare(_: int) -> None:
        step = next(steps)
        large = {"w": (np.zeros(4_000_000), (4_000_000,), (0,))}
        worker.assigned(list(worker.declare(step, large)))
        save = convert.save_to_wire(worker.assignment.save)
        opened[:] = [save_pb2.WriteRequest(open=save_pb2.WriteOpen(save=save, shard=0))]
        time.sleep(25.0)

    in_threads(1, declare)

    def write(index: int) -> None:
        if opened:
            _silent(stubs[index % 4].Write, opened[0])
        time.sleep(0.01)

    in_threads(96, write)


def _join(stub: Any, run: str) -> Any:
    incarnation = versions.new_incarnation()
    request = convert.join_to_wire(versions.this_peer(incarnation), run, Member(0, 1, incarnation), RunOptions())
    call = stub.Join(request)
    next(call)
    return call


def _joined(target: Target, names: Iterator[str]) -> None:
    stubs = [target.stub(methods.SAVE) for _ in range(MANY_NAMES // 200)]
    calls: list[Any] = []

    def join(index: int) -> None:
        name = next(names, None)
        if name is None:
            time.sleep(1.0)
            return
        calls.append(_join(stubs[len(calls) % len(stubs)], name))

    in_threads(PARALLEL, join)


def long_names(target: Target) -> None:
    _joined(target, (f"flood/{number}/" + "/".join(["n" * 190] * 5) for number in range(MANY_NAMES)))


def deep_names(target: Target) -> None:
    _joined(target, (f"flood/{number}/" + "/".join("d" * 490) for number in range(MANY_NAMES)))


def wrong_tokens(target: Target) -> None:
    stubs = [target.stub(methods.ADMIN, token="wrong") for _ in range(2)]

    def ask(index: int) -> None:
        with contextlib.suppress(grpc.RpcError):
            stubs[index % 2].Status(admin_pb2.StatusRequest())

    in_threads(64, ask)


def log_lines(target: Target) -> None:
    def call(index: int) -> None:
        with target.raw() as connection:
            for number in itertools.count():
                connection.call(b"/%d/" % number + b"A" * 12_000)

    in_threads(PARALLEL, call)


def small_saves(target: Target) -> None:
    def save(index: int) -> None:
        with Checkpointer(target.address, f"flood/small-{index}", token=TOKEN, max_to_keep=2) as ckpt:
            for step in itertools.count(time.time_ns()):
                ckpt.save(step, {"w": np.ones(10)}).result(60.0)

    in_threads(8, save)


def watchers(target: Target) -> None:
    stubs = [target.stub(methods.WATCH) for _ in range(16)]
    calls: list[Any] = []

    def watch(_: int) -> None:
        if len(calls) >= 16 * 250:
            time.sleep(1.0)
            return
        call = stubs[len(calls) % 16].Watch(watch_pb2.WatchRequest(run="bulk"))
        calls.append(call)
        if len(calls) % 16 == 0:
            next(call)

    in_threads(1, watch)


def huge_metadata(target: Target) -> None:
    def call(_: int) -> None:
        with target.raw() as connection:
            for _ in range(50):
                connection.call(_STATUS, *((b"x-%d" % number, b"v" * 4000) for number in range(64)))

    in_threads(PARALLEL, call)


def pins(target: Target) -> None:
    stubs = [target.stub(methods.ADMIN) for _ in range(4)]

    def pin(index: int) -> None:
        stubs[index % 4].Pin(admin_pb2.PinRequest(run="bulk", step=1, pinned=bool(index % 2)))

    in_threads(32, pin)


def dropped_calls(target: Target) -> None:
    """Calls that go on when their caller has gone: looks at damage, and changes of a run."""
    stubs = [(target.stub(methods.ADMIN), target.stub(methods.READ)) for _ in range(4)]
    numbers = itertools.count()

    def drop(index: int) -> None:
        admin, read = stubs[index % 4]
        damage = read_pb2.CheckDamageRequest(run="bulk", key="bulk/model.ckpt-1", save_id=str(next(numbers)))
        pin = admin_pb2.PinRequest(run="bulk", step=1, pinned=True)
        for call in [read.CheckDamage.future(damage), admin.Pin.future(pin)]:
            time.sleep(0.001)
            call.cancel()

    in_threads(8, drop)


def statuses(target: Target) -> None:
    stubs = [target.stub(methods.ADMIN) for _ in range(4)]
    in_threads(64, lambda index: stubs[index % 4].Status(admin_pb2.StatusRequest()))


def half_closed(target: Target) -> None:
    def connect() -> RawConnection:
        connection = target.raw()
        connection.send(frame(HEADERS, 4, 1, headers(_STATUS)))
        connection.half_close()
        return connection

    kept_open(1000, connect)


def handshakes(target: Target) -> None:
    """The beginning of a TLS handshake, and nothing more; where there is no TLS, nonsense."""

    def connect() -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", target.port), 5.0)
        connection.sendall(bytes((22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3)))
        return connection

    kept_open(1100, connect)


def _frames(target: Target, data: bytes) -> None:
    def send(_: int) -> None:
        with target.raw() as connection:
            while True:
                connection.send(data)

    in_threads(PARALLEL, send)


def ping_frames(target: Target) -> None:
    _frames(target, frame(PING, 0, 0, b"12345678") * 1000)


def settings_frames(target: Target) -> None:
    _frames(target, frame(SETTINGS, 0, 0, struct.pack(">HI", 3, 100)) * 1000)


def reset_streams(target: Target) -> None:
    """Calls that are begun and reset at once, as fast as a connection takes them."""

    def send(_: int) -> None:
        with target.raw() as connection:
            for stream in range(1, 1 << 30, 2):
                connection.send(
                    frame(HEADERS, 4, stream, headers(_STATUS)) + frame(RST_STREAM, 0, stream, struct.pack(">I", 8))
                )

    in_threads(PARALLEL, send)


def tickets(target: Target) -> None:
    def ask(_: int) -> None:
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(f"{target.socket_path}.uid")

    in_threads(PARALLEL, ask)


def hangups(target: Target) -> None:
    def hang_up(_: int) -> None:
        os.kill(target.pid, signal.SIGHUP)
        time.sleep(0.0005)

    in_threads(1, hang_up)


def bulk(target: Target) -> None:
    """Reads as fast as they come."""
    stubs = [target.stub(methods.READ) for _ in range(8)]

    def read(index: int) -> None:
        for _ in stubs[index].Read(read_pb2.ReadRequest(key="bulk/model.ckpt-1.data-00000-of-00001", size=-1)):
            pass

    in_threads(8, read)


FLOODS: dict[str, Callable[[Target], None]] = {
    each.__name__: each
    for each in (
        idle_connections,
        arena_sockets,
        silent_manifests,
        slow_readers,
        idle_writers,
        long_names,
        wrong_tokens,
        log_lines,
        bulk,
        small_saves,
        watchers,
        huge_metadata,
        pins,
        dropped_calls,
        statuses,
        deep_names,
        handshakes,
        half_closed,
        ping_frames,
        settings_frames,
        reset_streams,
        tickets,
        hangups,
    )
}


if __name__ == "__main__":
    FLOODS[sys.argv[1]](Target(*sys.argv[2:]))
    sys.stdin.read()
    os._exit(0)
