"""`ckptd serve --http`: joins the listener for HTTP to a server. Without that setting nothing of it is loaded."""

from __future__ import annotations

import asyncio
import logging
import socket
from dataclasses import dataclass

from ckptd.access.visits import Visit, Visitor
from ckptd.daemon.config import Config
from ckptd.engine.front import Engine
from ckptd.engine.journal import Journal, Journals
from ckptd.errors import InvalidRequestError
from ckptd.service.agents import Attending
from ckptd.service.exposure import check_http_exposure
from ckptd.service.server import Server, ServerOptions
from ckptd.wire import addresses
from ckptd.wire.addresses import http_url
from ckptd.wire.server_tls import Tls

try:
    from starlette.requests import Request

    from ckptd.daemon.measuring import Measuring
    from ckptd.daemon.page_source import DaemonSource
    from ckptd.web.application import Application, visit_of
    from ckptd.web.host_names import HostNames
    from ckptd.web.listener import Listener, bind
    from ckptd.web.metrics_page import MetricsPage
    from ckptd.web.recent import RecentPast
    from ckptd.web.site import Site
    from ckptd.web.tls import RenewableTls
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] == "ckptd":
        raise
    raise InvalidRequestError(
        f"--http needs packages that are not installed ({error.name}): pip install 'ckptd[web]'"
    ) from error

_ALIVE_S = 5.0  # an event loop that takes longer does not serve


class Observing:
    """What is measured and kept of what happens, to be shown. It begins before the engine does anything."""

    def __init__(self, config: Config, *, is_late: bool = False) -> None:
        """Begin; `is_late`: after the engine, so that figures would be wrong."""
        self.is_late = is_late
        self.measuring, self.past = Measuring(config), RecentPast()
        logging.getLogger("ckptd").addHandler(self.past.handler)

    def journal(self, first: Journal, *others: Journal) -> Journals:
        """Return a journal that tells `first`, then what is observed, and then `others`."""
        return self.measuring.journal(first, self.past, *others)


class Web:
    """The listener of one server. Its methods belong to the server's event loop, but `renew`."""

    def __init__(self, config: Config, options: ServerOptions, server: Server, observing: Observing) -> None:
        """Take the port, and let `server` know it, which is not started yet.

        Raises:
            CkptdError: why it cannot listen there.
        """
        address = check_http_exposure(options)
        assert address is not None, "made only where --http is given"
        listening, server.http = bind(address)
        self.url = http_url(server.http)
        self._tls = None if options.tls is None or not address.secure else RenewableTls(options.tls)
        advertised = [addresses.parse(text).host for text in config.advertise]
        host = socket.gethostname()
        names = HostNames([address.host, host, host.partition(".")[0], config.name or "", *advertised])
        self._daemon = _OfServer(server, asyncio.get_running_loop())
        self._server, self._observing, self._names, self._socket = server, observing, names, listening
        self._page = MetricsPage(observing.measuring.render)
        self._listener: Listener | None = None
        self._site: Site | None = None
        self._looking: list[asyncio.Task[None]] = []

    def start(self, engine: Engine, hosts: Attending | None) -> None:
        """Answer from now on, with what is in `engine`; `hosts` are those whose agents attend, if any may."""
        source = DaemonSource(engine, self._server, hosts)
        self._site = Site(source, self._observing.past, source.hosts, self._look_again)
        application = Application(
            self._daemon,
            self._names,
            {**({} if self._observing.is_late else {"/metrics": self._page.answer}), **self._site.routes},
            self._site.shell,
        )
        self._observing.measuring.look_at(engine, self._server)
        self._looking = [
            asyncio.create_task(self._observing.measuring.run(self._server)),
            asyncio.create_task(source.keep_looking()),
        ]
        self._listener = Listener(application, self._socket, self._tls)
        self._listener.start()

    async def _look_again(self, request: Request) -> Visitor:
        return await self._daemon.admit(visit_of(request))

    def renew(self, tls: Tls | None) -> None:
        """Use other certificates from the next handshake on. Any thread may call."""
        if self._tls is not None and tls is not None:
            self._tls.renew(tls)

    async def stop(self) -> None:
        """Answer no more."""
        for each in self._looking:
            each.cancel()
        self._page.close()
        if self._listener is None or self._site is None:
            self._socket.close()
            return
        self._site.close()
        await asyncio.get_running_loop().run_in_executor(None, self._listener.stop)


@dataclass(frozen=True, slots=True)
class _OfServer:
    """A server, as the listener's thread sees it; see `ckptd.web.application.ServedDaemon`."""

    server: Server
    loop: asyncio.AbstractEventLoop

    async def admit(self, visit: Visit) -> Visitor:
        admitted = asyncio.run_coroutine_threadsafe(self.server.visitors.admit(visit), self.loop)
        return await asyncio.wrap_future(admitted)

    async def redeem(self, code: str) -> str | None:
        async def redeemed() -> str | None:
            return self.server.visitors.redeem(code)

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(redeemed(), self.loop))

    async def is_alive(self) -> bool:
        turned = asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self.loop)
        try:
            await asyncio.wait_for(asyncio.wrap_future(turned), _ALIVE_S)
        except asyncio.TimeoutError:
            return False
        return True

    def why_not_ready(self) -> str:
        return self.server.why_not_ready()
