"""For operators: what the daemon does at this moment, and what to keep."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from ckptd.access.roles import Right
from ckptd.arena.lender import Usage
from ckptd.engine.catalog.contents import CheckpointSelector
from ckptd.engine.catalog.past_saves import PastSave
from ckptd.errors import InvalidRequestError, NotFoundError, NotPermittedError
from ckptd.format import names
from ckptd.service import descriptors, hosts_page, status_page
from ckptd.service.agents import Attending
from ckptd.service.allowances import Allowances
from ckptd.service.arenas import ArenaServer
from ckptd.service.calls import Behaviour, Call
from ckptd.service.opening import Openings
from ckptd.service.page_logins import CODE_S, PageLogins
from ckptd.service.pools import Pools
from ckptd.service.presence import Presences
from ckptd.service.recorder import Recorder
from ckptd.service.save import Host
from ckptd.service.store_facts import StoreFacts
from ckptd.wire import convert, past_saves
from ckptd.wire.v1 import admin_pb2

if TYPE_CHECKING:
    from ckptd.engine.front import Engine, StoredCheckpoints

Result = TypeVar("Result")


class Past(Protocol):
    """Knows what became of saves."""

    def saves(self, run: str) -> Sequence[PastSave]:
        """Return the saves of a run that have ended, oldest first. Blocks."""


class AdminService:
    """Behaviours of `AdminService`. The server fills in `listening` and `warnings` once it has bound its addresses.

    Attributes:
        past: the history of saves; None where none is kept, as by an agent.
    """

    def __init__(
        self,
        coordinator: Engine,
        host: Host,
        pools: Pools,
        presences: Presences,
        allowances: Allowances,
        recorder: Recorder,
        hosts: Attending | None = None,
    ) -> None:
        self._coordinator, self._hosts = coordinator, hosts
        self._host = host
        self._pools = pools
        self._presences = presences
        self._allowances, self._recorder = allowances, recorder
        self._openings = Openings(coordinator, pools)
        self._facts = StoreFacts(coordinator.store, pools)
        self._started = time.monotonic()
        self.listening: Sequence[str] = ()
        self.http = ""
        self.start_http: Callable[[], Awaitable[None]] | None = None
        self.logins: PageLogins | None = None
        self.problems: Sequence[str] = ()  # with the files of identities
        self.warnings: Sequence[str] = ()
        self.draining = False
        self.arenas: ArenaServer | None = None
        self.past: Past | None = None

    def behaviours(self) -> dict[str, Behaviour]:
        """Return what answers each method."""
        return {
            "Status": self.status,
            "Pin": self.pin,
            "Delete": self.delete,
            "Undelete": self.undelete,
            "Repair": self.repair,
            "Evict": self.evict,
            "History": self.history,
            "OpenPage": self.open_page,
        }

    async def status(self, request: admin_pb2.StatusRequest, call: Call) -> admin_pb2.StatusReply:
        """Describe the runs that are open or quarantined, with the saves in progress and what they wait for.

        The caller is told of those that it may read.
        """
        may_read = call.allowed(Right.READ)
        views = [view for view in await self._pools.look(self._coordinator.runs) if may_read(view.run)]
        hosts = None if self._hosts is None else await self._pools.look(self._hosts.view)
        attending = await self._pools.look(self._coordinator.attending)
        facts, complaint = await self._facts.look()
        lender = None if self.arenas is None else self.arenas.lender
        usage = {} if lender is None else lender.usage()
        shown = [] if request.after_host else views
        page = status_page.fill(shown, request.after_run, lambda view: usage.get(view.run, Usage()), request.most_ranks)
        return admin_pb2.StatusReply(
            peer=self._host.peer,
            root=self._host.root,
            durability=convert.durability_to_wire(self._coordinator.store.durability),
            uptime_s=time.monotonic() - self._started,
            listening=self.listening,
            http=self.http,
            free_bytes=-1 if facts.free_bytes is None else facts.free_bytes,
            runs=page.runs,
            next_after=page.next_after,
            draining=self.draining,
            warnings=(
                *filter(None, (*self.warnings, *self._coordinator.root.warnings, complaint)),
                *((*self.problems, *filter(None, [self._recorder.complaint])) if call.is_admin else ()),
            ),
            arena_bytes=0 if lender is None else lender.size_bytes,
            arena_limit_bytes=0 if lender is None else lender.limit_bytes,
            write_mode=facts.write_mode,
            limits=[
                admin_pb2.LimitUse(
                    subject=use.subject_for(may_read),
                    what=use.what,
                    used=-1 if use.used is None else use.used,
                    most=use.most,
                )
                for use in self._allowances.uses()
                if use.subject == str(call.caller) or any(map(may_read, use.runs))
            ],
            stream_ports=() if self._host.streams is None else self._host.streams.ports,
            open_files=await self._pools.look(descriptors.in_use),
            open_files_limit=descriptors.open_files(),
            hosts=None
            if hosts is None
            else hosts_page.fill(hosts, views, request.after_host, may_see=may_read, sees_all=call.is_admin),
            attending=None if attending is None else hosts_page.attending(attending),
        )

    async def history(self, request: admin_pb2.HistoryRequest, call: Call) -> admin_pb2.HistoryReply:
        """Return what became of the saves of a run."""
        run = convert.run_from_wire(request.run)
        if self.past is None:
            attending = await self._pools.look(self._coordinator.attending)
            where = "" if attending is None else f", at {attending.coordinator or 'the address that the root names'}"
            raise InvalidRequestError(f"this daemon keeps no history of saves: the coordinator does{where}")
        saves = await self._pools.control(run, self.past.saves, run)
        if not saves and not await self._pools.control(run, self._coordinator.is_founded, run):
            raise NotFoundError(f"this daemon has no run {run!r}; `ckptd status` names those that are open")
        return admin_pb2.HistoryReply(saves=map(past_saves.to_wire, saves[-request.most :]))

    async def open_page(self, request: admin_pb2.OpenPageRequest, call: Call) -> admin_pb2.OpenPageReply:
        """Return a link that shows the page to its caller; pages are served from then on, if they are not yet."""
        assert self.logins is not None, "the server sets it before it listens"
        if not self.http:
            if self.start_http is None:
                raise InvalidRequestError("this daemon serves no pages")
            if not call.is_admin:
                raise NotPermittedError(
                    f"this daemon serves no pages yet (--http), and {call.caller} may not start that: it needs the "
                    "role `admin` on all runs"
                )
            await self.start_http()
        code = self.logins.code(call.caller)
        return admin_pb2.OpenPageReply(http=self.http, path=f"/login?code={code}", expires_s=CODE_S)

    async def free_bytes(self) -> int | None:
        """Return how much space the store has said is free; it has a moment to say so again."""
        facts, _ = await self._facts.look()
        return facts.free_bytes

    async def pin(self, request: admin_pb2.PinRequest, call: Call) -> admin_pb2.PinReply:
        """Keep a checkpoint whatever retention says, or no longer."""
        run, which = _named(request)
        pinned = await self._in_catalog(run, lambda stored: stored.pin(which, request.pinned))
        return admin_pb2.PinReply(checkpoint=convert.checkpoint_to_wire(pinned, run))

    async def delete(self, request: admin_pb2.DeleteRequest, call: Call) -> admin_pb2.DeleteReply:
        """Delete one checkpoint; for a caller that may only save, not below the run's floor."""
        run, which = _named(request)
        for_good, even_latest = request.for_good, request.even_latest
        append_only = not call.may(Right.MANAGE, run)
        await self._in_catalog(run, lambda stored: stored.delete(which, for_good, even_latest, append_only=append_only))
        return admin_pb2.DeleteReply()

    async def undelete(self, request: admin_pb2.UndeleteRequest, call: Call) -> admin_pb2.UndeleteReply:
        """Bring back a recently deleted checkpoint."""
        run, which = _named(request)
        back = await self._in_catalog(run, lambda stored: stored.undelete(which))
        return admin_pb2.UndeleteReply(checkpoint=convert.checkpoint_to_wire(back, run))

    async def evict(self, request: admin_pb2.EvictRequest, call: Call) -> admin_pb2.EvictReply:
        """Free the places that hung or hostile processes hold in a run."""
        run, rank = convert.run_from_wire(request.run), request.rank if request.HasField("rank") else None
        eviction = await self._openings.control(run, self._coordinator.evict, run, rank, str(call.caller))
        self._presences.evicted(run, eviction.members)
        return convert.eviction_to_wire(eviction.members, eviction.saves)

    async def _in_catalog(self, run: str, work: Callable[[StoredCheckpoints], Result]) -> Result:
        return await self._openings.control(run, self._coordinator.in_catalog, run, work)

    async def repair(self, request: admin_pb2.RepairRequest, call: Call) -> admin_pb2.RepairReply:
        """Mend a run that cannot be opened, or whose state file names what is gone."""
        run = convert.run_from_wire(request.run)
        repaired = await self._pools.control(
            run, self._coordinator.repair, run, convert.text_from_wire(request.latest_filename) or names.STATE_KEY
        )
        return convert.repaired_to_wire(repaired)


_Naming = admin_pb2.PinRequest | admin_pb2.DeleteRequest | admin_pb2.UndeleteRequest


def _named(request: _Naming) -> tuple[str, CheckpointSelector]:
    """Return the run, and which of its checkpoints is meant."""
    which = convert.checkpoint_from_choice(request.name, request.step, request.series)
    return convert.run_from_wire(request.run), which
