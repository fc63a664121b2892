"""Pages of a daemon that was started without `--http`, from the first `ckptd open` on: on this host alone."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptd.daemon.config import Config
from ckptd.daemon.roles import Role
from ckptd.engine.journal import Journals
from ckptd.errors import ConflictError
from ckptd.service.server import Server, ServerOptions
from ckptd.wire import addresses

if TYPE_CHECKING:
    from ckptd.daemon.web import Observing, Web

_HOST = "127.0.0.1"

_log = logging.getLogger("ckptd.daemon")


class LatePages:
    """See the module. Belongs to the event loop of the server.

    Attributes:
        web: the listener, once there is one.
    """

    def __init__(self, config: Config, options: ServerOptions, server: Server, role: Role, journal: Journals) -> None:
        """Load nothing yet."""
        self._config, self._options, self._server = config, options, server
        self._role, self._journal = role, journal
        self._turn = asyncio.Lock()
        self.web: Web | None = None

    async def begin(self) -> None:
        """Serve pages, if that is not done yet. What happened before is not on them, and there are no metrics.

        Raises:
            InvalidRequestError: packages are missing for it.
            CkptdError: why it cannot listen.
        """
        async with self._turn:
            if self.web is not None:
                return
            observing = await asyncio.get_running_loop().run_in_executor(None, self._observe)
            try:
                web = self._listen(addresses.DEFAULT_HTTP_PORT, observing)
            except ConflictError:
                web = self._listen(0, observing)
            self._journal.add(observing.past)
            web.start(self._role.engine, self._role.hosts)
            self._server.note_http()
            self.web = web
            _log.info("pages at %s, from now on", web.url)

    def _observe(self) -> Observing:
        from ckptd.daemon.web import Observing

        return Observing(self._config, is_late=True)

    def _listen(self, port: int, observing: Observing) -> Web:
        from ckptd.daemon.web import Web

        http = addresses.parse_http(f"{_HOST}:{port}") if port else replace(addresses.parse_http(_HOST), port=0)
        return Web(self._config, replace(self._options, http=http), self._server, observing)
