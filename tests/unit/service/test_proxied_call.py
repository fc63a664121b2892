from __future__ import annotations

import asyncio
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

from ckptd.service.proxied_call import ProxiedContext
from tests import seams

WAIT_S = 60


def test_a_socket_is_closed_only_when_nobody_is_at_it_any_more(monkeypatch):
    inside, going_on = threading.Event(), threading.Event()

    def slow(connection):
        inside.set()
        assert going_on.wait(WAIT_S)
        raise ConnectionResetError

    seams.RECEIVE_PROXIED.put(monkeypatch, slow)
    ours, theirs = socket.socketpair()

    async def hang_up_while_reading(threads):
        context = ProxiedContext(ours, "ipv4:127.0.0.1:1", threads)
        reading = asyncio.create_task(context.read())
        await asyncio.to_thread(inside.wait, WAIT_S)
        reading.cancel()
        await asyncio.wait([reading])
        context.close()

    with theirs, ThreadPoolExecutor(1) as threads:
        asyncio.run(hang_up_while_reading(threads))
        assert ours.fileno() >= 0
        assert theirs.recv(1) == b""  # the other end is told at once
        going_on.set()
    assert ours.fileno() == -1
