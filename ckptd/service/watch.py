"""Watching, for remote readers: each stream takes from its own mailbox at the speed at which its peer listens."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Future

from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.refusals import NotNowError
from ckptd.service.allowances import Allowances
from ckptd.service.calls import Call
from ckptd.service.meter import ServiceMeter
from ckptd.service.opening import Openings
from ckptd.service.pools import Pools, settled
from ckptd.watch.hub import Hub, Watcher
from ckptd.wire import convert
from ckptd.wire.v1 import watch_pb2

# A watcher that takes nothing for this long has been forgotten by its owner. It costs one mailbox until then.
_PATIENCE_S = 3600.0


class WatchService:
    """Behaviours of `WatchService`."""

    def __init__(
        self,
        hub: Hub,
        pools: Pools,
        openings: Openings,
        allowances: Allowances,
        ending: asyncio.Event,
        meter: ServiceMeter,
    ) -> None:
        self._hub = hub
        self._openings = openings
        self._pools = pools
        self._allowances = allowances
        self._ending, self._meter = ending, meter
        self._bell: _Bell | None = None
        self._encoded: tuple[str, Checkpoint, bool, bytes] | None = None

    async def watch(self, request: watch_pb2.WatchRequest, call: Call) -> None:
        """Tell the newest checkpoint, then each newer one, until the peer goes or the daemon ends."""
        with self._allowances.watching(call.caller):
            await self._watch(request, call)

    async def _watch(self, request: watch_pb2.WatchRequest, call: Call) -> None:
        run, name = convert.run_from_wire(request.run), convert.series_from_wire(request.name)
        await self._openings.ready(run)
        news = asyncio.Event()
        loop = asyncio.get_running_loop()
        known = convert.text_from_wire(request.after_save_id)
        bell = self._bell = self._bell or _Bell(loop)
        opened = self._pools.submit(run, self._hub.watch, run, lambda: bell.ring(news), after_save_id=known, name=name)
        ending = asyncio.ensure_future(self._ending.wait())
        ending.add_done_callback(lambda _: news.set())
        try:
            watcher = await settled(opened)
            while not self._ending.is_set():
                news.clear()
                while (checkpoint := watcher.take()) is not None:
                    call.check_still()  # its token may have been revoked since the last one
                    await call.write(self._encode(run, checkpoint, watcher.has_heard), stall_s=_PATIENCE_S)
                    if watcher.has_heard:
                        self._meter.watcher_told(time.monotonic() - watcher.news_since)
                await call.lasts(news.wait())
            raise NotNowError("the daemon is shutting down")
        finally:
            ending.cancel()
            # It may be opened only after the peer is gone.
            opened.add_done_callback(_close)

    def _encode(self, run: str, checkpoint: Checkpoint, is_published: bool) -> bytes:
        """Return an event's bytes, which are the same for every watcher: a thousand of them cost one encoding."""
        known = self._encoded
        if known is None or known[1] is not checkpoint or (known[0], known[2]) != (run, is_published):
            message = convert.checkpoint_to_wire(checkpoint, run)
            event = watch_pb2.WatchEvent(checkpoint=message, published=is_published)
            known = self._encoded = run, checkpoint, is_published, event.SerializeToString()
        return known[3]


class _Bell:
    """Sets events of one loop from other threads: those of a thousand watchers by waking it once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._due: list[asyncio.Event] = []

    def ring(self, event: asyncio.Event) -> None:
        """Have `event` set soon."""
        with self._lock:
            self._due.append(event)
            is_first = len(self._due) == 1
        # The loop may be closed already while the engine still publishes; then nothing is listening.
        if is_first and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._set_due)

    def _set_due(self) -> None:
        with self._lock:
            due, self._due = self._due, []
        for event in due:
            event.set()


def _close(opened: Future[Watcher]) -> None:
    if not opened.cancelled() and opened.exception() is None:
        opened.result().close()
