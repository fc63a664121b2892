"""A real daemon inside of the test's process, which can be stopped, restarted and cut off."""

from __future__ import annotations

import asyncio
import threading

from ckptd.engine.saves.coordinator import Coordinator
from ckptd.engine.settings import Settings
from ckptd.service.server import ArenaOptions, Server, ServerOptions
from ckptd.storage.locations import open_store
from ckptd.wire import addresses
from tests.fakes.access import OPEN
from tests.services.server import free_ports

BOUND_S = 60.0


class Daemon:
    """A coordinator over a directory, or over the store that is given, and a server in a loop of its own."""

    def __init__(self, root, listen="127.0.0.1:0", arena_bytes=0, clock=None, store=None, access=OPEN, **settings):
        self.root = root
        self._clock = clock
        self._store = store
        self._access = access
        self._arena = ArenaOptions(arena_bytes, root.parent) if arena_bytes else None
        self.settings = Settings(**settings)
        # One on a port of its own choice is started again there: nobody may have taken it meanwhile.
        self._listen = addresses.parse(f"127.0.0.1:{free_ports()[0]}" if listen == "127.0.0.1:0" else listen)
        self.start()

    def start(self):
        self.coordinator = self.make_coordinator()
        self.coordinator.open()
        self._ready, self._failed = threading.Event(), None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._ready.wait(BOUND_S)
        if self._failed:
            raise self._failed

    def make_coordinator(self):
        return Coordinator(self._store or open_store(str(self.root)), settings=self.settings, clock=self._clock)

    def make_server(self, coordinator):
        return Server(coordinator, ServerOptions(listen=(self._listen,), access=self._access, arena=self._arena))

    async def _serve(self):
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = self.make_server(self.coordinator)
        try:
            self.address = (await server.start())[0]
            self.server = server
        except BaseException as error:
            self._failed = error
            return
        finally:
            self._ready.set()
        # The next start is on the same port, as a restarted daemon is.
        self._listen = addresses.parse(self.address)
        while not self._stop.is_set():
            self.coordinator.tick()
            try:
                await asyncio.wait_for(self._stop.wait(), 0.1)
            except (TimeoutError, asyncio.TimeoutError):
                continue
        await server.stop()

    def stop(self):
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(BOUND_S)
            assert not self._thread.is_alive()
            self.coordinator.close()
