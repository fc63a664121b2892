"""Watching, for remote readers: each stream takes from its own mailbox at the speed at which its peer listens."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

from ckptd.errors import UnavailableError
from ckptd.service.calls import Call
from ckptd.service.pools import Pools, settled
from ckptd.watch.hub import Hub, Watcher
from ckptd.wire import convert
from ckptd.wire.v1 import watch_pb2

# A watcher that takes nothing for so long has been forgotten by its owner. It costs one mailbox until then.
_PATIENCE_S = 3600.0


class WatchService:
    """Behaviours of `WatchService`."""

    def __init__(self, hub: Hub, pools: Pools, ending: asyncio.Event) -> None:
        self._hub = hub
        self._pools = pools
        self._ending = ending

    async def watch(self, request: watch_pb2.WatchRequest, call: Call) -> None:
        """Tell the newest checkpoint, then each newer one, until the peer goes or the daemon ends."""
        run = convert.run_from_wire(request.run)
        news = asyncio.Event()
        loop = asyncio.get_running_loop()
        known = convert.text_from_wire(request.after_save_id)
        opened = self._pools.submit(self._hub.watch, run, lambda: _wake(loop, news), after_save_id=known)
        ending = asyncio.ensure_future(self._ending.wait())
        ending.add_done_callback(lambda _: news.set())
        try:
            watcher = await settled(opened)
            while not self._ending.is_set():
                news.clear()
                while (checkpoint := watcher.take()) is not None:
                    event = watch_pb2.WatchEvent(checkpoint=convert.checkpoint_to_wire(checkpoint, run))
                    await call.write(event, stall_s=_PATIENCE_S)
                await news.wait()
            raise UnavailableError("the daemon is shutting down")
        finally:
            ending.cancel()
            # It may be opened only after the peer is gone.
            opened.add_done_callback(_close)


def _wake(loop: asyncio.AbstractEventLoop, news: asyncio.Event) -> None:
    # The loop may be closed already while the engine still publishes; then nobody is listening.
    if not loop.is_closed():
        loop.call_soon_threadsafe(news.set)


def _close(opened: Future[Watcher]) -> None:
    if not opened.cancelled() and opened.exception() is None:
        opened.result().close()
