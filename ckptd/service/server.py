"""Binds addresses, serves, drains."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from ckptd.arena.lender import Lender
from ckptd.arena.segment import is_supported
from ckptd.engine.journal import NO_JOURNAL, Journal
from ckptd.engine.priority import Priority
from ckptd.errors import CkptdError, ConflictError
from ckptd.service import descriptors, guarded_server
from ckptd.service.admin import AdminService, Past
from ckptd.service.agents import AgentService, Attending
from ckptd.service.allowances import Allowances
from ckptd.service.arena_connection import Lending
from ckptd.service.arenas import ArenaServer
from ckptd.service.boundary import Boundary
from ckptd.service.calls import Behaviour
from ckptd.service.certificates import Certificates
from ckptd.service.connections import AUTHORITY_GONE, Connections
from ckptd.service.door import Door
from ckptd.service.exposure import check_exposure, exposure_warnings
from ckptd.service.flow import Budgets, Limits
from ckptd.service.gate import Access, Gate
from ckptd.service.interceptors import IdentityNeeded
from ckptd.service.meter import NO_METER, ServiceMeter
from ckptd.service.opening import Openings
from ckptd.service.page_logins import KEY_SUFFIX, PageLogins
from ckptd.service.peer_sockets import Endpoints
from ckptd.service.pools import Pools
from ckptd.service.read import ReadService
from ckptd.service.readiness import Readiness
from ckptd.service.recorder import Recorder
from ckptd.service.save import Host, SaveService
from ckptd.service.sockets import answers, check_is_free, refusal, why_no_port
from ckptd.service.stream_processes import StreamOptions, StreamProcesses
from ckptd.service.subjects import Subjects
from ckptd.service.tickets import TicketServer
from ckptd.service.under_way import CallsUnderWay
from ckptd.service.visitors import Visitors
from ckptd.service.watch import WatchService
from ckptd.storage.capabilities import PooledObjects
from ckptd.watch.hub import Hub
from ckptd.wire import channels, last_word, methods, proxied, versions
from ckptd.wire.addresses import ARENA_SUFFIX, MAX_SOCKET_PATH, Address, http_url
from ckptd.wire.channels import ConnectionLife
from ckptd.wire.server_tls import Tls
from ckptd.wire.tickets import TICKET_SUFFIX

if TYPE_CHECKING:
    from ckptd.engine.front import Engine

_log = logging.getLogger("ckptd.service")

# How long answers that are already known (a save's end, a refusal) may take to go out at the end.
_LAST_WORDS_S = 2.0


@dataclass(frozen=True, slots=True)
class ArenaOptions:
    """How shared memory is lent to workers of this host.

    Attributes:
        limit_bytes: of all of it.
        directory: where the socket for it goes if we listen on no Unix socket that it could be beside; None: nowhere.
        path: of that socket, instead.
    """

    limit_bytes: int
    directory: Path | None
    path: Path | None = None


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How a server listens, and how much it takes on.

    Attributes:
        problems: with the files of identities, a sentence each: `status` tells them to those that may do everything.
        http: where pages and metrics are to be served.
    """

    listen: tuple[Address, ...]
    tls: Tls | None = None
    access: Access = field(default_factory=Access)
    socket_mode: int = 0o600
    control_threads: int = 16
    data_threads: int = 8
    priority: Priority = field(default_factory=Priority)  # of the threads for data
    limits: Limits = field(default_factory=Limits)
    connection_life: ConnectionLife = field(default_factory=ConnectionLife)
    arena: ArenaOptions | None = None
    streams: StreamOptions | None = None
    problems: Sequence[str] = ()
    http: Address | None = None


class Server:
    """A daemon's gRPC server over one coordinator. Belongs to one event loop.

    Attributes:
        http: where its process also listens for HTTP, with the real port; to be set before `start`.
        visitors: lets callers in that come there.
        free_bytes: returns how much space is free in the store; see `AdminService.free_bytes`.
    """

    def __init__(
        self,
        coordinator: Engine,
        options: ServerOptions,
        journal: Journal = NO_JOURNAL,
        hosts: Attending | None = None,
        past: Past | None = None,
        meter: ServiceMeter = NO_METER,
    ) -> None:
        """`journal` is told of calls that change something; `hosts` are those whose agents attend, if any may.

        `past` knows what became of saves; None where no history is kept. `meter` is told of every call, and of what
        streams wait for.
        """
        self._options = options
        self._addresses = check_exposure(options)
        self.http: Address | None = None
        self._certificates = None if options.tls is None else Certificates(options.tls)
        self._sockets: list[Path] = []  # that we made: a refused start must not remove another daemon's
        self._ticket_servers: list[TicketServer] = []
        self._ending = asyncio.Event()
        self._pools = Pools(
            control_threads=options.control_threads, data_threads=options.data_threads, priority=options.priority
        )
        flow = Budgets(options.limits, meter)
        host = Host(
            peer=versions.this_peer(versions.new_incarnation()),
            root=coordinator.store.url,
            # Who sees the store itself reads there. What agents read together is read through them.
            root_id="" if isinstance(coordinator.objects, PooledObjects) else coordinator.root.id,
            lease_s=coordinator.settings.lease_s,
        )
        self._host, self._coordinator = host, coordinator
        self.arenas: ArenaServer | None = None
        self.streams: StreamProcesses | None = None
        self.hub = Hub(
            coordinator.subscribe,
            coordinator.latest,
            lambda run, save_id: coordinator.look(run, lambda stored: stored.quarantine_of(save_id), ""),
        )
        self._readiness = Readiness(coordinator.attending, self._pools)
        self.gate = Gate(options.access)
        self._door = Door(self.gate)
        self._allowances = Allowances(coordinator, self.gate, self._door.pacing)
        coordinator.admit = self._allowances.admit
        coordinator.floor_of = lambda run: self.gate.access.policy.floor(run)
        self._server = guarded_server.server(
            [IdentityNeeded(self._door)], channels.server_options(options.connection_life, of_agents=hosts is not None)
        )
        self._recorder = Recorder(journal)
        self._logins = PageLogins(self.gate, coordinator.store.url)
        self.visitors = Visitors(self._door, self._recorder, self._logins)
        save = SaveService(coordinator, host, self._pools, flow, self._allowances, self._ending, self._recorder)
        self._presences, self._last_words = save.presences, save.last_words
        self._admin = AdminService(
            coordinator, host, self._pools, save.presences, self._allowances, self._recorder, hosts
        )
        self._admin.problems, self.free_bytes = options.problems, self._admin.free_bytes
        self._admin.past, self._admin.logins = past, self._logins
        openings = Openings(coordinator, self._pools)
        self._agents = AgentService(hosts, self._pools, openings, self._recorder, self._ending, self._allowances)
        behaviours = _behaviours(
            save,
            ReadService(coordinator, host, self._pools, flow, self._recorder),
            WatchService(self.hub, self._pools, openings, self._allowances, self._ending, meter),
            self._admin,
            self._agents,
        )
        self._under_way, subjects = CallsUnderWay(self.gate, self._look_at_arenas), Subjects(coordinator, self._pools)
        limit_s = options.limits.control_s
        boundary = Boundary(self._door, self._recorder, subjects, self._under_way, limit_s=limit_s, meter=meter)
        self._register(behaviours, boundary)
        self._write = boundary.around(methods.SAVE["Write"], save.write)

    def _register(self, behaviours: dict[str, Behaviour], boundary: Boundary) -> None:
        for service in (methods.SAVE, methods.READ, methods.WATCH, methods.ADMIN, methods.AGENT):
            handlers = methods.handlers(
                service.values(), lambda method: boundary.around(method, behaviours[method.path])
            )
            guarded_server.add(self._server, *handlers)
        self._readiness.add_to(self._server)
        reflection.enable_server_reflection(
            (*methods.SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )

    async def start(self) -> Sequence[str]:
        """Bind and serve; return the addresses, with the real ports.

        `ConflictError` when something listens there already, `UnavailableError` when the system refuses, and
        `NotPermittedError` when it does so to this user.
        """
        bound = [self._bind(address) for address in self._addresses]
        self._admin.listening = tuple(map(str, bound))
        self._admin.http = "" if self.http is None else http_url(self.http)
        socket = next((each.path for each in bound if each.is_unix), None)
        self._logins.key_file = None if socket is None else Path(f"{socket}{KEY_SUFFIX}")
        self._admin.warnings = exposure_warnings(self._options, bound, self.http)
        self._lend_arenas(bound)
        self.streams = self._host.streams = self._stream_processes(bound)
        endpoints = Endpoints.of(bound, () if self.http is None else [self.http.port])
        self._door.connections = Connections(endpoints, allowed=descriptors.open_files())
        self._door.connections.start()
        self._under_way.start()
        self._agents.start()
        await self._server.start()
        await self._readiness.start()
        return self._admin.listening

    def note_http(self, start: Callable[[], Awaitable[None]] | None = None) -> None:
        """Tell callers where pages are served; or how that may be `start`ed when one is to be shown."""
        self._admin.http = "" if self.http is None else http_url(self.http)
        self._admin.start_http = start

    def leave_word(self, why: str) -> None:
        """Tell clients at our sockets why we do not come back there; "" says nothing. While they are still ours."""
        for path in self._sockets if why else ():
            last_word.leave(Address(path=str(path)), why)

    def _lend_arenas(self, bound: Sequence[Address]) -> None:
        options = self._options.arena
        if options is None or not options.limit_bytes or not is_supported():
            return
        path = options.path or _arena_path(bound, options.directory)
        if path is None:
            return
        lending = Lending(
            self._coordinator,
            self.gate,
            self._allowances,
            self._door.pacing,
            self._recorder,
            Lender(options.limit_bytes),
            self._options.socket_mode,
            self._options.limits.manifest_bytes,
        )
        arenas = ArenaServer(lending, path)
        try:
            arenas.start()
        except CkptdError as error:
            if options.path is not None:
                raise
            # Everything works without; only slower.
            _log.warning("workers of this host get no shared memory, and send their bytes: %s", error)
            return
        self.arenas = self._admin.arenas = self._host.arenas = arenas

    def _stream_processes(self, bound: Sequence[Address]) -> StreamProcesses | None:
        hosts = _stream_hosts(bound)
        options, tls = self._options.streams, self._options.tls
        if options is None or not options.count or not hosts:
            return None
        setup = proxied.Setup(
            hosts,
            0,
            *(("", "", "") if tls is None else _as_texts(tls)),
            life=self._options.connection_life,
            nice=self._options.priority.nice,
            io_class=self._options.priority.io_class,
        )
        streams = StreamProcesses(options, setup, self._write)
        streams.check_ports()
        return streams

    def _bind(self, address: Address) -> Address:
        if address.is_unix:
            check_is_free(address)
            last_word.forget(address)
            self._give_tickets(address)  # before the socket is there: clients that find no tickets show none
        # A socket is born with its permissions: changed only afterwards, it would be open for a moment.
        mask = os.umask(0o777 & ~self._options.socket_mode)
        try:
            if address.secure:
                assert self._certificates is not None, "check_exposure requires certificates first"
                port = self._server.add_secure_port(address.target, self._certificates.credentials())
            else:
                port = self._server.add_insecure_port(address.target)
        except RuntimeError as e:
            if not address.is_unix and answers(address):
                raise ConflictError(f"another program already listens on {address}; pass another --listen") from e
            raise refusal(address, None if address.is_unix else why_no_port(address.host, address.port)) from e
        finally:
            os.umask(mask)
        if not address.is_unix:
            return replace(address, port=port)
        self._sockets.append(Path(address.path))
        return address

    def _give_tickets(self, address: Address) -> None:
        path = Path(f"{address.path}{TICKET_SUFFIX}")
        if len(os.fsencode(path)) > MAX_SOCKET_PATH:
            _log.warning("%s is too long: users that call there can't be told apart", address)
            return
        tickets = TicketServer(self.gate.tickets, path, self._options.socket_mode)
        tickets.start()
        self._ticket_servers.append(tickets)

    def use_identities(self, access: Access, tls: Tls | None, problems: Sequence[str] = ()) -> None:
        """Judge all calls by this; those in progress end if they are no longer allowed. Any thread may call.

        Where an authority of clients is gone, all connections are closed: those of others are made again.
        `problems`: what is wrong with their files, a sentence each; see `ServerOptions`.
        """
        self.gate.access = access
        self._admin.problems = tuple(problems)
        if tls is not None and self._certificates is not None:
            is_authority_gone = self._certificates.renew(tls)
            if self.streams is not None:
                self.streams.renew(*_as_texts(tls))
            if is_authority_gone and self._door.connections is not None:
                self._door.connections.close_all(AUTHORITY_GONE)
        self._under_way.look_again()

    def _look_at_arenas(self) -> None:
        if self.arenas is not None:
            self.arenas.close_what_is_not_allowed()

    @property
    def warnings(self) -> Sequence[str]:
        """What an operator must know of the addresses, with the real ports."""
        return self._admin.warnings

    def why_not_ready(self) -> str:
        """Return why the daemon takes no new saves, in words; "" while it does. Any thread may call."""
        return self._readiness.why_not()

    async def drain(self) -> None:
        """Answer health checks that the daemon is about to end; calls in progress go on."""
        self._admin.draining = True
        await self._readiness.drain()

    async def stop(self) -> None:
        """End all streams, give short answers a moment to go out, and stop. Also after a start that failed."""
        self._ending.set()
        await self._last_words.settle()
        self._agents.stop()
        await self._readiness.stop()
        self._under_way.stop()
        await guarded_server.stop(self._server, _LAST_WORDS_S)
        if self._door.connections is not None:
            self._door.connections.stop()
        if self.streams is not None:
            await self.streams.stop()
        if self.arenas is not None:
            self.arenas.stop()
        await self._presences.settle(_LAST_WORDS_S)
        self._pools.close()
        self._recorder.close()
        for path in self._sockets:
            path.unlink(missing_ok=True)
        for tickets in self._ticket_servers:
            tickets.stop()

    async def tell_taken_over(self, runs: Collection[str], is_all: bool) -> None:
        """Let health say which runs another owner has taken over; see `Readiness.taken_over`."""
        await self._readiness.taken_over(runs, is_all)


def _behaviours(
    save: SaveService, read: ReadService, watch: WatchService, admin: AdminService, agents: AgentService
) -> dict[str, Behaviour]:
    """Say which function answers which method; a method without one would fail right here, at start."""
    table: tuple[tuple[dict[str, methods.Method], dict[str, Behaviour]], ...] = (
        (
            methods.SAVE,
            {
                "Join": save.join,
                "Leave": save.leave,
                "PutManifest": save.put_manifest,
                "Declare": save.declare,
                "AwaitPlan": save.await_plan,
                "Write": save.write,
                "Await": save.await_,
                "Abort": save.abort,
            },
        ),
        (
            methods.READ,
            {
                "Latest": read.latest,
                "List": read.list,
                "Read": read.read,
                "CheckDamage": read.check_damage,
                "Agree": read.agree,
                "Restored": read.restored,
            },
        ),
        (methods.WATCH, {"Watch": watch.watch}),
        (methods.ADMIN, admin.behaviours()),
        (methods.AGENT, agents.behaviours()),
    )
    return {method.path: answers[name] for service, answers in table for name, method in service.items()}


def _as_texts(tls: Tls) -> tuple[str, str, str]:
    """Return certificate, key and authority as `proxied.Setup` has them."""
    return tls.certificate.decode("latin-1"), tls.key.decode("latin-1"), (tls.client_ca or b"").decode("latin-1")


def _stream_hosts(bound: Sequence[Address]) -> tuple[tuple[str, bool], ...]:
    """Return where streams are taken besides, and whether with TLS: each host once, and only the one that is all."""
    hosts = {address.host: bool(address.secure) for address in reversed(bound) if not address.is_unix}
    everywhere = next((host for host in ("::", "0.0.0.0") if host in hosts), None)  # noqa: S104 - asked for, with TLS
    return tuple(hosts.items()) if everywhere is None else ((everywhere, hosts[everywhere]),)


def _arena_path(bound: Sequence[Address], directory: Path | None) -> Path | None:
    """Return where the socket for shared memory goes: beside ours, where processes that share it look."""
    beside = next((Path(f"{address.path}{ARENA_SUFFIX}") for address in bound if address.is_unix), None)
    if beside is not None and len(os.fsencode(beside)) <= MAX_SOCKET_PATH:
        return beside
    port = next((address.port for address in bound if not address.is_unix), os.getpid())
    return None if directory is None else directory / f"ckptd-{port}{ARENA_SUFFIX}"
