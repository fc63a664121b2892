"""A daemon as its pages show it; see `ckptd.web.source.PageSource`."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

from ckptd.engine.front import Engine
from ckptd.engine.hosts.views import HostsView
from ckptd.engine.saves.views import RunView
from ckptd.errors import NotFoundError
from ckptd.format.names import check_run_name
from ckptd.printable import counted, printable
from ckptd.service.agents import Attending
from ckptd.service.server import Server
from ckptd.storage.base import Durability, Objects
from ckptd.storage.keys import join
from ckptd.web import wording
from ckptd.web.source import About, Fact
from ckptd.wire import versions

_LOOK_AGAIN_S = 30.0
_LOOK_SHARE = 20.0  # so many times as long as looking for runs took, nobody looks again
_PATIENCE_S = 0.5
_LOW_BYTES = 1 << 30

_KEPT = {
    Durability.MEMORY: "memory, gone with the daemon",
    Durability.LOCAL_DISK: "local disk",
    Durability.OBJECT_STORE: "object store",
}


class DaemonSource:
    """See the module.

    Attributes:
        free_bytes: of the store, as it said last; None where that has no meaning, or before it was known.
    """

    is_live = True

    def __init__(self, engine: Engine, server: Server, hosts: Attending | None) -> None:
        """Look at nothing yet."""
        self._engine, self._server, self._hosts = engine, server, hosts
        self._began = time.monotonic()
        self.free_bytes: int | None = None
        self._names: tuple[str, ...] = ()
        self._look_at = 0.0  # monotonic: when names may be looked for again
        self._lock = threading.Lock()
        self._looking: threading.Thread | None = None

    @property
    def objects(self) -> Objects:
        """See `PageSource`."""
        return self._engine.objects

    def key(self, run: str, label: str) -> str:
        """See `PageSource`."""
        return join(run, label)

    def about(self, *, sees_all: bool) -> About:
        """See `PageSource`."""
        store, facts = self._engine.store, []
        kept = _KEPT[store.durability]
        free = "" if self.free_bytes is None else f", {wording.size(self.free_bytes)} free"
        facts.append(Fact("store", kept + free, self.free_bytes is not None and self.free_bytes < _LOW_BYTES))
        if self._server.arenas is not None:
            lender = self._server.arenas.lender
            facts.append(
                Fact("shared memory", f"{wording.size(lender.size_bytes)} of {wording.size(lender.limit_bytes)}")
            )
        if (hosts := self.hosts()) is not None:
            lost = [host.host for host in hosts.hosts if host.is_lost]
            here = counted(len(hosts.hosts) - len(lost), "host")
            facts.append(Fact("hosts", here + (f", lost: {', '.join(lost[:4])}" if lost else ""), bool(lost)))
        up_s = time.monotonic() - self._began
        facts.append(Fact("up", "less than a minute" if up_s < 60 else wording.duration(up_s // 60 * 60)))
        if sees_all:
            facts.append(Fact("root", store.url))
        warnings = (*self._server.warnings, *self._engine.root.warnings) if sees_all else ()
        return About(
            version=versions.VERSION,
            host=socket.gethostname(),
            root=store.url if sees_all else "",
            facts=tuple(facts),
            warnings=tuple(warnings),
            why_not_ready=self._server.why_not_ready(),
        )

    def hosts(self) -> HostsView | None:
        """Describe the hosts whose agents attend; None where none may."""
        return None if self._hosts is None else self._hosts.view()

    def names(self) -> Sequence[str]:
        """See `PageSource`. The store is looked through by a thread of its own, now and then."""
        with self._lock:
            if self._looking is None and time.monotonic() >= self._look_at:
                self._looking = threading.Thread(target=self._look, name="ckptd-page-names", daemon=True)
                self._looking.start()
            looking = self._looking
        if looking is not None and not self._names:
            looking.join(_PATIENCE_S)
        return sorted({*self._names, *(view.run for view in self._engine.runs())})

    def _look(self) -> None:
        began = time.monotonic()
        try:
            self._names = tuple(self._engine.stored_runs())
        finally:
            now = time.monotonic()
            with self._lock:
                self._look_at = now + max(_LOOK_AGAIN_S, _LOOK_SHARE * (now - began))
                self._looking = None

    async def keep_looking(self) -> None:
        """Know how much space the store has, until cancelled. Belongs to the event loop of the server."""
        while True:
            self.free_bytes = await self._server.free_bytes()
            await asyncio.sleep(_LOOK_AGAIN_S)

    def runs(self) -> Sequence[RunView]:
        """See `PageSource`."""
        return self._engine.runs()

    def run(self, name: str) -> RunView:
        """See `PageSource`."""
        found = self._open(name)
        if found is not None:
            return found
        check_run_name(name)
        if name not in self.names():
            raise NotFoundError(f"there is no run {printable(name, limit=200)!r}, or you may not read it")
        checkpoints = tuple(self._engine.checkpoints(name))  # it opens the run
        latest = checkpoints[-1] if checkpoints else None
        at_rest = replace(
            RunView.at_rest(name), checkpoints=checkpoints, num_checkpoints=len(checkpoints), latest=latest
        )
        return self._open(name) or at_rest

    def _open(self, name: str) -> RunView | None:
        return next((each for each in self._engine.runs() if each.run == name), None)
