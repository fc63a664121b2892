from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from dataclasses import replace

import pytest

from ckptd.service.flow import Limits
from ckptd.service.server import Server, ServerOptions
from ckptd.wire import addresses, methods
from ckptd.wire.channels import open_channel
from tests.fakes.access import OPEN
from tests.fakes.coordinator import FakeCoordinator


class Running:
    """A server in a loop of its own thread, and stubs to call it."""

    def __init__(self, coordinator, options):
        self.coordinator = coordinator
        self.options = options
        self.listening = ()
        self.failed = None
        self._ready = threading.Event()
        self._stop = None
        self._channels = []
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self):
        try:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            self.server = Server(self.coordinator, self.options)
            self.listening = await self.server.start()
        except BaseException as e:
            self.failed = e
            if hasattr(self, "server"):
                await self.server.stop()
            return
        finally:
            self._ready.set()
        await self._stop.wait()
        await self.server.stop()

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(60)
        if self.failed:
            self._thread.join(60)
            raise self.failed
        return self

    def __exit__(self, *_):
        for channel in self._channels:
            channel.close()
        self.stop()

    def stop(self):
        if not self._thread.is_alive():
            return
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
        assert not self._thread.is_alive()

    def channel(self, which=0, **credentials):
        channel = open_channel(addresses.parse(self.listening[which]), **credentials)
        self._channels.append(channel)
        return channel

    def stub(self, service=methods.SAVE, **credentials):
        return methods.Stub(self.channel(**credentials), service)

    def writer(self, **credentials):
        """Return a stub to send lanes with: to a stream process, if there are any."""
        if self.options.streams is None:
            return self.stub(**credentials)
        address = addresses.parse(self.listening[0])
        channel = open_channel(replace(address, port=self._stream_port()), **credentials)
        self._channels.append(channel)
        return methods.Stub(channel, methods.SAVE)

    def _stream_port(self):
        async def started():
            while not (port := self.server.streams.port_for(0)):
                await asyncio.sleep(0.01)
            return port

        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(started(), 60), self._loop).result()


@contextmanager
def serving(coordinator=None, listen=("127.0.0.1:0",), access=OPEN, **options):
    parsed = tuple(addresses.parse(text) for text in listen)
    options = ServerOptions(listen=parsed, access=access, **options)
    with Running(coordinator or FakeCoordinator(), options) as running:
        yield running


@pytest.fixture
def served():
    with serving(limits=Limits(stall_s=60.0)) as running:
        yield running
