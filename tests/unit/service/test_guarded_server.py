"""The end of gRPC's server: no call outlives it."""

from __future__ import annotations

import asyncio
import logging

import grpc
import pytest
from grpc import aio

from ckptd.service import guarded_server

_BOUND_S = 40.0


@pytest.mark.parametrize("how", ["calls that end by themselves", "calls that are cancelled"])
def test_after_its_end_no_call_is_left_that_the_end_of_the_loop_would_break_off(how, caplog):
    async def serve():
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def answer(_request, _context):
            begun.set()
            await go_on.wait()
            return b""

        server = guarded_server.server([], [])
        guarded_server.add(server, "a.B", {"C": grpc.unary_unary_rpc_method_handler(answer)})
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary("/a.B/C")(b"")
            answered = asyncio.ensure_future(call.code())
            await asyncio.wait_for(begun.wait(), _BOUND_S)
            if how == "calls that end by themselves":
                go_on.set()
                await asyncio.wait_for(answered, _BOUND_S)
            await guarded_server.stop(server, 0.1)
            left = [task.get_coro().__name__ or "" for task in asyncio.all_tasks()]
            await asyncio.wait_for(answered, _BOUND_S)
        return [name for name in left if "rpc" in name]

    with caplog.at_level(logging.ERROR):
        assert asyncio.run(serve()) == []
    assert "Exception not handled" not in caplog.text
