"""What gRPC itself costs a coordinator: a server that takes a save's messages of many agents, and does nothing.

Each agent says what it declares (2.1 kB) and a receipt (10 kB), and is told two messages, as in an equal save. Either
by the one call by which it attends, as agents do, or by a call for each, as they did.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
from pathlib import Path
from typing import Any

import grpc
from grpc import aio
from measuring import cpu_of
from simulated_agents import all_of

from ckptd.wire.channels import SERVER_OPTIONS

SAID_BYTES, TOLD_BYTES = (2_100, 10_000), (200, 300)
ROUNDS = 5
_OPTIONS = [("grpc.use_local_subchannel_pool", 1)]


def serve(path: str, ready: Any) -> None:
    """Answer each message, and do nothing else."""
    asyncio.run(_serve(path, ready))


async def _serve(path: str, ready: Any) -> None:
    async def answered(said: bytes, context: Any) -> bytes:
        return bytes(TOLD_BYTES[len(said) == SAID_BYTES[1]])

    async def attended(_requests: Any, context: Any) -> None:
        await context.write(b"attached")
        while (said := await context.read()) is not aio.EOF:
            await context.write(bytes(TOLD_BYTES[len(said) == SAID_BYTES[1]]))

    server = aio.server(options=SERVER_OPTIONS)
    behaviours = {
        "Attend": grpc.stream_stream_rpc_method_handler(attended),
        "Tell": grpc.unary_unary_rpc_method_handler(answered),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bare", behaviours),))
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    ready.send(None)
    await server.wait_for_termination()


async def _saves(path: str, num_hosts: int, pid: int) -> dict[str, float]:
    channels = [aio.insecure_channel(f"unix:{path}", options=_OPTIONS) for _ in range(num_hosts)]
    calls: list[Any] = [channel.stream_stream("/bare/Attend")() for channel in channels]
    stubs: list[Any] = [channel.unary_unary("/bare/Tell") for channel in channels]

    async def by_one_call(call: Any, size: int) -> None:
        await call.write(bytes(size))
        await call.read()

    async def by_many(stub: Any, size: int) -> None:
        await stub(bytes(size))

    await all_of([call.read() for call in calls])
    await all_of([by_many(stub, 1) for stub in stubs])
    found = {}
    for name, say, ends in (("one call", by_one_call, calls), ("many calls", by_many, stubs)):
        before = cpu_of(pid)
        for size in SAID_BYTES * ROUNDS:
            await all_of([say(end, size) for end in ends])
        found[name] = (cpu_of(pid) - before) / ROUNDS
    for channel in channels:
        await channel.close()
    return found


def measure(num_hosts: int) -> dict[str, float]:
    """Return the processor time of a save's messages, by how they are said."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="ckptd-bare-") as place:
        path, (ours, theirs) = str(Path(place) / "s"), spawn.Pipe()
        server = spawn.Process(target=serve, args=(path, theirs), daemon=True)
        server.start()
        try:
            ours.recv()
            assert server.pid is not None
            return asyncio.run(_saves(path, num_hosts, server.pid))
        finally:
            server.kill()
            server.join()
