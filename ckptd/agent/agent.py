"""The agent of one host: an `Engine` for the ranks there. It writes the host's shard, and passes everything else on.

To its ranks it is a daemon. It declares for them once all that have joined here have declared, fills the shard that the
coordinator names, and gives a receipt. It holds no lock of the root, and writes no record, index or state file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeVar

from ckptd.agent.host_calls import HostCalls
from ckptd.agent.memory_here import MemoryHere
from ckptd.agent.neighbourhood import Neighbour
from ckptd.agent.pooled_reads import PooledReads
from ckptd.agent.relays import RelayedRestores, RelayedRun, watch
from ckptd.agent.retiring import Retiring
from ckptd.agent.silence import SILENT_S
from ckptd.agent.whereabouts import Whereabouts
from ckptd.engine.catalog.floor import NO_FLOOR, Floor
from ckptd.engine.catalog.nesting import is_run
from ckptd.engine.catalog.root import stored_runs
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.clock import Clock, SystemClock
from ckptd.engine.hosts.memories import InMemory, LentMemory, Where
from ckptd.engine.identity import Member, RunOptions, SaveRef
from ckptd.engine.offline.repair import Repaired
from ckptd.engine.saves.answers import known
from ckptd.engine.saves.listeners import OnPublished
from ckptd.engine.saves.surroundings import Admit, admit_all
from ckptd.engine.saves.views import Eviction, RunView
from ckptd.engine.settings import Settings
from ckptd.errors import InvalidRequestError, NotFoundError
from ckptd.format import names
from ckptd.storage.base import Objects, Store
from ckptd.storage.capabilities import FileObjects
from ckptd.wire import memories, versions
from ckptd.wire.agents import life_to_wire
from ckptd.wire.v1 import agent_pb2

_log = logging.getLogger("ckptd.agent")

Result = TypeVar("Result")

_MOST_ENDED = 256  # calls, remembered for retries of ranks


class AgentRoot:
    """The root that an agent writes to, which its coordinator owns."""

    def __init__(self, root_id: str) -> None:
        """Know it by its id."""
        self.id = root_id
        self.warnings: tuple[str, ...] = ()


class Agent:
    """See the module. Call `open` before anything else, and `close` at the end."""

    def __init__(
        self,
        store: Store,
        *,
        host: str,
        root_id: str,
        coordinator: str | Whereabouts = "",
        addresses: Sequence[str] = (),
        settings: Settings | None = None,
        clock: Clock | None = None,
        again_s: float = 0.5,
        started_by: str = "",
        peer_name: str | None = None,
    ) -> None:
        """Prepare the agent of `host`, which writes to `store`.

        Args:
            store: where shards go; opened by the agent itself.
            host: the host's stable name.
            root_id: the id of the root, as its coordinator has noted it.
            coordinator: its address, or where it is looked for; "" for where the root says.
            addresses: where other agents reach this one; see `advertise`.
            settings: bounds.
            clock: both kinds of time.
            again_s: after this time without an answer a message is sent again.
            started_by: see `AgentLife`.
            peer_name: what certificates of other agents are for; None for the host by which each is reached.
        """
        self.store, self.root = store, AgentRoot(root_id)
        self.settings, self.clock = settings or Settings(), clock or SystemClock()
        self.on_catalog: Callable[[str, frozenset[str]], None] = lambda run, save_ids: None
        self.floor_of: Callable[[str], Floor] = lambda run: NO_FLOOR
        self.admit: Admit = admit_all
        self.host = host
        self._peer = versions.this_peer(versions.new_incarnation())
        given = [coordinator] if isinstance(coordinator, str) and coordinator else []
        whereabouts = coordinator if isinstance(coordinator, Whereabouts) else Whereabouts(store, given)
        self._calls = calls = HostCalls(
            store,
            host,
            root_id,
            whereabouts,
            settings=self.settings,
            clock=self.clock,
            again_s=again_s,
            peer=self._peer,
            started_by=started_by,
            peer_name=peer_name,
        )
        calls.advertise(addresses)
        self.manifests, self._link, self._seats = calls.manifests, calls.link, calls.seats
        self.declare, self.plan_of, self.lane = calls.declare, calls.plan_of, calls.lane
        self.outcome, self.phase, self.saves_of = calls.outcome, calls.phase, calls.saves_of
        self.abort, self.withdraw, self.attending = calls.abort, calls.withdraw, calls.attending
        self._memory = MemoryHere(host, self._where, self._offer)
        self._pooled = PooledReads(store, host, calls.others, self._neighbours, self._peer, self._memory)
        # Where hosts share a directory, each reads it as a file: its pages are in memory once.
        self.objects: Objects = store if isinstance(store, FileObjects) else self._pooled
        self._checks: dict[str, object] = {}
        self.restores = RelayedRestores(self._of)
        self._retiring = Retiring(self._link)

    # Life.

    def open(self) -> None:
        """Begin to attend."""
        self._calls.open()

    def advertise(self, addresses: Sequence[str]) -> None:
        """Tell the coordinator where other agents reach this one."""
        self._calls.advertise(addresses)

    def close(self, grace_s: float = 0.0) -> bool:
        """Wait at most `grace_s` for saves under way, and end; return whether all were published."""
        finished = self._calls.close(grace_s)
        self._retiring.close()
        return finished

    def tick(self) -> None:
        """Apply deadlines, and repeat what was not answered."""
        self._calls.tick()
        self._pooled.tick()
        with suppress(RuntimeError):  # closed meanwhile
            self._memory.tick(self._calls.term, self._calls.workers.submit)

    def lends(self, memory: LentMemory) -> None:
        """See `OffersMemory`."""
        self._memory.lent = memory

    def _where(self, prefix_key: str) -> Where:
        request = agent_pb2.WhereRequest(key=prefix_key)
        return memories.where_from_wire(
            self._link.call(lambda stubs, s: stubs.agent.Where(request, timeout=s), timeout_s=SILENT_S)
        )

    def _offer(self, saves: Sequence[InMemory]) -> Sequence[str]:
        request = agent_pb2.OfferRequest(agent=life_to_wire(self._calls.life), saves=memories.saves_to_wire(saves))
        reply: agent_pb2.OfferReply = self._link.call(lambda stubs, s: stubs.agent.Offer(request, timeout=s))
        return reply.gone

    def _neighbours(self) -> list[Neighbour]:
        request = agent_pb2.NeighboursRequest()
        reply = self._link.call(lambda stubs, s: stubs.agent.Neighbours(request, timeout=s), timeout_s=SILENT_S)
        return [Neighbour(each.host, tuple(each.addresses)) for each in reply.neighbours]

    # Members.

    def join(self, run: str, member: Member, options: RunOptions) -> int:
        """See `Engine`."""
        return self._seats.join(run, member, options)

    def is_founded(self, run: str) -> bool:
        """See `Engine`."""
        return self._seats.are_any(run) or is_run(self.store, names.check_run_name(run))

    def check_member(self, run: str, rank: int, incarnation: str, epoch: int) -> None:
        """See `Engine`."""
        self._seats.check(run, rank, incarnation, epoch)

    def disconnect(self, run: str, member: Member, epoch: int) -> None:
        """See `Engine`."""
        self._seats.disconnect(run, member, epoch, self.clock.boot_s())
        with suppress(RuntimeError):  # closed meanwhile: the coordinator hears that this agent ends
            self._calls.workers.submit(self._seats.depart, run, member, epoch, False)

    def leave(self, run: str, member: Member, epoch: int) -> None:
        """See `Engine`."""
        self._calls.rank_left(run, member, epoch)
        self._seats.depart(run, member, epoch, True)  # when this returns, others may have its place

    def evict(self, run: str, rank: int | None, by: str) -> Eviction:
        """See `Engine`: members are evicted at the coordinator, which knows those of all hosts, and who may do it."""
        raise InvalidRequestError(self._do_there("ckptd evict"), key=run)

    def _do_there(self, command: str) -> str:
        where = self._link.address
        how = f"{command} … --address {where}" if where else f"{command} … --address ADDR, once there is one"
        return f"this is the agent of {self.host}, one host of several: call the coordinator, by `{how}`"

    def retired(self, save: SaveRef) -> Future[None]:
        """See `Engine`: what retention deletes is the coordinator's, and waited for there."""
        return self._retiring.retired(save)

    # Checkpoints: all of this is passed on.

    def _of(self, run: str) -> RelayedRun:
        return RelayedRun(self._link, names.check_run_name(run), self._peer, self._checks)

    def latest(self, run: str, name: str = names.ANY_NAME) -> Checkpoint | None:
        """See `Engine`."""
        return self._of(run).latest(name)

    def checkpoints(self, run: str) -> Sequence[Checkpoint]:
        """See `Engine`."""
        return self._of(run).checkpoints()

    def in_catalog(self, run: str, work: Callable[[RelayedRun], Result]) -> Result:
        """See `Engine`."""
        return work(self._of(run))

    def look(self, run: str, work: Callable[[RelayedRun], Result], otherwise: Result) -> Result:
        """See `Engine`."""
        try:
            return work(self._of(run))
        except NotFoundError:
            return otherwise

    def subscribe(self, run: str, on_published: OnPublished) -> Callable[[], None]:
        """See `Engine`."""
        return watch(self._link, run, self._peer, on_published)

    def note_read(self, key: str) -> None:
        """See `Engine`: the coordinator hears of it within moments, and again and again while it goes on."""
        self._calls.readers.note(key, self.clock.boot_s())

    def stored_runs(self) -> Iterator[str]:
        """See `Engine`."""
        return iter(stored_runs(self.store))

    def runs(self) -> Sequence[RunView]:
        """See `Engine`: the ranks of this host."""
        return [
            RunView(
                run,
                max(place.epoch for place in places.values()),
                world_size,
                tuple(sorted(places)),
                saves.views(),
                None,
                0,
                "",
            )
            for run, places, world_size in self._seats.views()
            if (saves := self._calls.saves_of(run)) is not None
        ]

    def when_open(self, run: str, *, create: bool = False) -> Future[None]:
        """See `Engine`: the coordinator opens runs."""
        return known(None)

    def repair(self, run: str, latest_filename: str) -> Repaired:
        """See `Engine`."""
        raise InvalidRequestError(self._do_there("ckptd repair"), key=run)
