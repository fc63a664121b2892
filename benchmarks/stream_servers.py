"""The far ends of `stream.py`, each in a process of its own: bare gRPC servers, and daemons."""

from __future__ import annotations

import asyncio
import functools
import multiprocessing
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from ckptd.storage.base import Buffer, ObjectStat, ObjectWriter
from ckptd.storage.memory import MemoryStore

WRITE, READ = "/bench.Bare/Write", "/bench.Bare/Read"
OPTIONS = (("grpc.max_send_message_length", 4 << 20), ("grpc.max_receive_message_length", 4 << 20))
_THREADS = 16
_SOURCE_BYTES = 128 << 20


class BareStreams(grpc.GenericRpcHandler):
    """Takes chunks and drops them, and sends chunks of no meaning: ``b"COUNT SIZE"`` says how many."""

    def __init__(self, is_async: bool) -> None:
        write, read = (drop_async, send_async) if is_async else (drop, send)
        self._handlers = {
            WRITE: grpc.stream_unary_rpc_method_handler(write),
            READ: grpc.unary_stream_rpc_method_handler(read),
        }

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return self._handlers.get(details.method)


def drop(requests: Iterator[bytes], _context: Any) -> bytes:
    return str(sum(map(len, requests))).encode()


async def drop_async(requests: AsyncIterator[bytes], _context: Any) -> bytes:
    taken = 0
    async for request in requests:
        taken += len(request)
    return str(taken).encode()


def send(request: bytes, _context: Any) -> Iterator[bytes]:
    yield from _blocks(*map(int, request.split()))


async def send_async(request: bytes, context: Any) -> None:
    for block in _blocks(*map(int, request.split())):
        await context.write(block)


def _blocks(count: int, size: int) -> Iterator[bytes]:
    """Go through memory that no processor's cache holds, as data that was read from somewhere does."""
    source = _memory()
    for number in range(count):
        at = number * size % (len(source) - size + 1)
        yield bytes(source[at : at + size])


@functools.cache
def _memory() -> memoryview:
    return memoryview(bytearray(b"x") * _SOURCE_BYTES)


def serve_threads(orders: Any) -> None:
    server = grpc.server(ThreadPoolExecutor(_THREADS), options=OPTIONS)
    server.add_generic_rpc_handlers((BareStreams(is_async=False),))
    orders.send(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
    server.start()
    orders.recv()
    server.stop(None)


def serve_async(orders: Any) -> None:
    async def run() -> None:
        server = aio.server(options=OPTIONS)
        server.add_generic_rpc_handlers((BareStreams(is_async=True),))
        orders.send(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
        await server.start()
        await asyncio.to_thread(orders.recv)
        await server.stop(None)

    asyncio.run(run())


class ForgetfulStore(MemoryStore):
    """Keeps small objects, and takes shards without keeping a byte: what a disk that costs nothing would be."""

    def create(self, key: str, size_bytes: int) -> ObjectWriter:
        return _ForgetfulWriter(self, key, size_bytes)


class _ForgetfulWriter:
    def __init__(self, store: ForgetfulStore, key: str, size_bytes: int) -> None:
        self.key, self.size_bytes = key, size_bytes
        self._store = store

    def write(self, offset: int, data: Buffer) -> None:
        pass

    def finish(self) -> ObjectStat:
        return self._store.put(self.key, b"")

    def abort(self) -> None:
        pass


def serve_daemon(store: MemoryStore, orders: Any, stream_processes: int = 0) -> None:
    """What `ckptd serve` does, over a store that no URL names."""
    from ckptd.daemon.allocator import keep_freed_memory
    from ckptd.daemon.app import STREAM_PROCESS, Ticker
    from ckptd.engine.saves.coordinator import Coordinator
    from ckptd.service.gate import Access
    from ckptd.service.server import Server, ServerOptions
    from ckptd.service.stream_processes import StreamOptions
    from ckptd.wire import addresses

    keep_freed_memory()
    coordinator = Coordinator(store)
    coordinator.open()

    async def run() -> None:
        streams = StreamOptions(stream_processes, STREAM_PROCESS)
        listen = (addresses.parse("127.0.0.1:0"),)
        server = Server(coordinator, ServerOptions(listen, access=Access(admits_loopback=True), streams=streams))
        orders.send((await server.start())[0])
        await asyncio.to_thread(orders.recv)
        await server.stop()

    with Ticker(coordinator):
        asyncio.run(run())


def serve_forgetful(orders: Any) -> None:
    serve_daemon(ForgetfulStore("nothing-kept"), orders)


def serve_by_processes(orders: Any) -> None:
    serve_daemon(ForgetfulStore("nothing-kept"), orders, stream_processes=2)


def serve_memory(orders: Any) -> None:
    serve_daemon(MemoryStore("kept"), orders)


class Far:
    """One server process: its address and number."""

    def __init__(self, serve: Any) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._orders, theirs = spawn.Pipe()
        self._process = spawn.Process(target=serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self.address: str = self._orders.recv()
        self.pid = self._process.pid

    def stop(self) -> None:
        self._orders.send(None)
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()


class FarDaemon:
    """A real `ckptd serve` on a directory."""

    def __init__(self, place: Path) -> None:
        from ckptd.demo.processes import Daemon

        (place / "root").mkdir()
        self._daemon = Daemon(place / "root", place / "daemon.log", place / "daemon.json")
        self._daemon.wait_until_ready()
        self.address = "grpc://{}:{}".format(*self._daemon.port())
        self.pid = self._daemon.pid

    def stop(self) -> None:
        self._daemon.stop()
