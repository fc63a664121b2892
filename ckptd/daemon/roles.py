"""What `ckptd serve` runs: a daemon that writes all of its checkpoints, a coordinator of agents, or a host's agent.

Each has an engine, which a server is put around (`ckptd.daemon.app`). What else differs between them is here.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from ckptd.access import token_file
from ckptd.agent.agent import Agent
from ckptd.agent.placing import this_boot
from ckptd.agent.whereabouts import Whereabouts
from ckptd.daemon import identity_files
from ckptd.daemon.config import Config
from ckptd.engine.catalog.root import read_id
from ckptd.engine.catalog.shared_trial import SharedTrial
from ckptd.engine.catalog.state_file import can_be_state
from ckptd.engine.catalog.term import Term
from ckptd.engine.front import Engine
from ckptd.engine.journal import Journal
from ckptd.engine.priority import Priority
from ckptd.engine.saves.attended import AttendedHosts
from ckptd.engine.saves.coordinator import Coordinator
from ckptd.engine.saves.scrub import Scrub
from ckptd.engine.settings import Settings
from ckptd.errors import CkptdError, InvalidRequestError, NotPermittedError
from ckptd.service.agents import Attending
from ckptd.service.server import ServerOptions
from ckptd.storage.base import Store
from ckptd.storage.capabilities import FileStore
from ckptd.storage.limited import RateLimit
from ckptd.storage.locations import open_store
from ckptd.storage.lock_holder import LockHolder
from ckptd.storage.metered import Meter
from ckptd.wire import addresses
from ckptd.wire.addresses import Address
from ckptd.wire.credentials import Credentials

WHOLE, COORDINATOR, AGENT = "whole", "coordinator", "agent"
HOST_VARIABLES = ("SLURMD_NODENAME", "NODE_NAME")
"""What names the host where --name does not: of SLURM, and by custom of a Kubernetes pod that is told its node."""

STARTED_BY_VARIABLE = "CKPTD_STARTED_BY"
"""Set by `ckptd run`: which of them this is, in words, as several nodes of a job may be given one name."""

_ROOT_MODE = 0o700  # of a root that we create: the operator decides about other readers
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - recognised, so that it is not advertised
_OF_EVERY_HOST = ("localhost", "localhost.localdomain")
_MOST_NAME_BYTES = 253  # of a name in DNS
_AGAIN_S = 1.0
_NOTICE_S = 30.0

_log = logging.getLogger("ckptd.daemon")


class Role(Protocol):
    """What `ckptd.daemon.app` serves. Its methods are called in this order."""

    @property
    def engine(self) -> Engine:
        """What the server serves; from `open` on."""

    @property
    def hosts(self) -> Attending | None:
        """The hosts whose agents attend; None where none may. From `open` on."""

    def open(self) -> None:
        """Take the root, or find it. May block."""

    def tick(self) -> None:
        """Apply deadlines; called several times a second from `open` on, also during `close`."""

    def listens(self, bound: Sequence[str]) -> None:
        """Hear where the server listens, which serves from now on. It must not block."""

    def begin(self) -> None:
        """Begin what is done besides serving. May block."""

    @property
    def successor(self) -> str | None:
        """What has taken the place of this process, which is then to end; "" while nothing has, None where none can."""

    def taken_over(self) -> tuple[list[str], bool] | None:
        """Return the runs that another owner has taken over, and whether these are all; None where that cannot be."""

    def close(self, grace_s: float = 0.0) -> bool:
        """Wait at most so long for saves under way, and end; return whether all were published."""


def of(
    config: Config,
    options: ServerOptions,
    journal: Journal,
    environ: Mapping[str, str],
    meter: Meter | None = None,
) -> Role:
    """Return the role that is configured; nothing is opened yet. `meter` is told of requests to the store.

    Raises:
        InvalidRequestError: a setting does not fit the role.
    """
    advertised = [addresses.parse(text) for text in config.advertise]
    if wrong := next((each for each in advertised if not each.is_unix and not each.port), None):
        raise InvalidRequestError("--advertise names an address with its port", actual=str(wrong))
    match config.role:
        case "coordinator":
            return Coordinating(config, options, journal, meter)
        case "agent":
            return AgentRole(config, options, environ, meter)
        case _:
            return Whole(config, options, journal, meter)


def settings_of(config: Config, priority: Priority) -> Settings:
    """Return the bounds of an engine."""
    return Settings(
        declare_timeout_s=config.declare_timeout_s,
        stall_timeout_s=config.stall_timeout_s,
        undo_s=config.undo_s,
        lease_s=config.lease_s,
        shards=config.shards,
        allow_unfenced=config.allow_unfenced,
        takes_back=config.when_taken_over == "take-back",
        priority=priority,
        write_limit=None if config.write_bytes_per_s is None else RateLimit(config.write_bytes_per_s),
    )


def reached_at(config: Config, bound: Sequence[str], host: str) -> tuple[str, ...]:
    """Return where others reach us: what the operator says, or else where we listen.

    What listens on all interfaces is reached at the name of the host.
    """
    if config.advertise:
        return tuple(str(addresses.parse(text)) for text in config.advertise)
    return tuple(str(_named(addresses.parse(text), host)) for text in bound)


def _named(address: Address, host: str) -> Address:
    return replace(address, host=host) if address.host in _EVERYWHERE else address


class Whole:
    """A daemon that writes all of its checkpoints itself; see `Role`."""

    hosts: Attending | None = None
    _program = "ckptd serve"

    def __init__(self, config: Config, options: ServerOptions, journal: Journal, meter: Meter | None = None) -> None:
        """Open nothing yet."""
        self._config = config
        self._journal = journal
        self._holder = LockHolder.here(self._program, str(options.listen[0])).line
        self._scrub: Scrub | None = None
        self._is_shared = config.role == COORDINATOR and config.shared_directory
        self.engine = Coordinator(
            open_store(config.root, root_mode=_ROOT_MODE, shared=self._is_shared, meter=meter, is_sound=can_be_state),
            settings=settings_of(config, options.priority),
            holder=self._holder,
            journal=journal,
        )
        self.tick = self.engine.tick

    def open(self) -> None:
        """See `Role`."""
        self.engine.open()

    def listens(self, bound: Sequence[str]) -> None:
        """See `Role`."""
        self.engine.writers = tuple(bound)

    def begin(self) -> None:
        """See `Role`: stored runs are checked, and read again if that is wanted."""
        self.engine.inspect()
        if self._config.scrub_bytes_per_s is not None:
            self._scrub = Scrub(self.engine, self._config.scrub_bytes_per_s, self._config.scrub_every_s, self._journal)

    @property
    def successor(self) -> str | None:
        """See `Role`: of a bucket it hears run by run."""
        return None

    def taken_over(self) -> tuple[list[str], bool] | None:
        """See `Role`."""
        return None if self.engine.store.has_locks else self.engine.taken_over()

    def close(self, grace_s: float = 0.0) -> bool:
        """See `Role`."""
        if self._scrub is not None:
            self._scrub.close()
        return self.engine.close(grace_s)


class Coordinating(Whole):
    """A coordinator: as a whole daemon, but agents attend, and it lends no memory."""

    _program = "ckptd coordinator"

    def open(self) -> None:
        """See `Role`: the root is taken, then its term."""
        super().open()
        bound = [each for each in self._config.listen if addresses.parse(each).port or addresses.parse(each).is_unix]
        known = reached_at(self._config, bound, socket.gethostname())
        self._term = Term(self.engine.store, self.engine.clock, holder=self._holder, addresses=known)
        self._term.take()
        is_directory, trial = isinstance(self.engine.store, FileStore), None
        if self._is_shared:
            trial = SharedTrial(self.engine.store, self.engine.clock, self._holder)
            trial.begin()
        self._hosts = AttendedHosts(
            self.engine,
            term=self._term,
            lease_s=self._config.agent_lease_s,
            only_boot=this_boot() if is_directory and trial is None else "",
            trial=trial,
        )
        self.hosts = self._hosts

    def begin(self) -> None:
        """See `Role`: the root says from now on where its coordinator is, with the ports that were chosen."""
        self._term.advertise(reached_at(self._config, self.engine.writers, socket.gethostname()))
        super().begin()

    def close(self, grace_s: float = 0.0) -> bool:
        """See `Role`: what another coordinator goes on with is not waited for."""
        finished = super().close(0.0 if self.successor else grace_s)
        if self.hosts is not None:
            self._hosts.close()
        return finished

    @property
    def successor(self) -> str | None:
        """See `Role`."""
        is_fenced = self.hosts is not None and self._hosts.is_fenced
        return "another coordinator has taken the root" if is_fenced else ""


class AgentRole:
    """The agent of this host; see `Role`."""

    hosts: Attending | None = None

    def __init__(
        self, config: Config, options: ServerOptions, environ: Mapping[str, str], meter: Meter | None = None
    ) -> None:
        """Open nothing yet."""
        self._config, self._options = config, options
        self._host, self._started_by = host_name(config.name, environ), environ.get(STARTED_BY_VARIABLE, "")
        self._store = open_store(config.root, meter=meter)
        credentials_of(config)  # a file that is missing ends the start, and no later call
        for text in config.coordinator:
            check_address(text)
        self._whereabouts = Whereabouts(self._store, config.coordinator, lambda: credentials_of(config))
        self._agent: Agent | None = None
        self._attends = False

    @property
    def engine(self) -> Agent:
        """See `Role`."""
        assert self._agent is not None, "open comes first"
        return self._agent

    def open(self) -> None:
        """See `Role`: wait until a coordinator has opened the root."""
        self._agent = Agent(
            self._store,
            host=self._host,
            root_id=_wait_for_id(self._store),
            coordinator=self._whereabouts,
            settings=settings_of(self._config, self._options.priority),
            started_by=self._started_by,
            peer_name=self._config.peer_name,
        )

    def tick(self) -> None:
        """See `Role`."""
        if self._attends:
            self.engine.tick()

    def listens(self, bound: Sequence[str]) -> None:
        """See `Role`: other agents reach this one at what is advertised, or at all but its sockets."""
        reached = reached_at(self._config, bound, socket.gethostname())
        if not self._config.advertise:
            reached = tuple(each for each in reached if not addresses.parse(each).is_unix) or reached
        self.engine.advertise(reached)

    def begin(self) -> None:
        """See `Role`: attend. That takes the place of an earlier life, so not before it can serve."""
        self.engine.open()
        self._attends = True

    def taken_over(self) -> tuple[list[str], bool] | None:
        """See `Role`: it owns no runs."""
        return None

    @property
    def successor(self) -> str | None:
        """See `Role`: a later life of this agent, or the agent of another host that was given the same name."""
        if self._agent is None or not (known := self._agent.attending()).is_replaced:
            return ""
        return known.why_not

    def close(self, grace_s: float = 0.0) -> bool:
        """See `Role`: of its saves the agent that has taken over hears, as their ranks come to it."""
        return not self._attends or self.engine.close(0.0 if self.successor else grace_s)


def host_name(given: str | None, environ: Mapping[str, str]) -> str:
    """Return the stable name of this host: what --name gives, or SLURM, or Kubernetes, or else the system.

    Raises:
        InvalidRequestError: nothing names it, or not so that it can be told from others.
    """
    named = [("--name", given), *((each, environ.get(each)) for each in HOST_VARIABLES)]
    named.append(("the host's own name", socket.gethostname()))
    said_by, name = next(((by, each.strip()) for by, each in named if each and each.strip()), ("", ""))
    if why := _wrong_with(name):
        found = f"{said_by} gives one, but {why}" if said_by else "nothing gives one"
        raise InvalidRequestError(
            f"an agent needs a name for its host that no other host has, and that stays the same; {found}: pass "
            "--name NAME",
            actual=name[:80],
        )
    return name


def _wrong_with(name: str) -> str:
    if not name:
        return "there is none"
    if name in _OF_EVERY_HOST:
        return "every host is called that"
    if not name.isprintable():
        return "it has characters that cannot be printed"
    return f"it is longer than {_MOST_NAME_BYTES} bytes" if len(name.encode()) > _MOST_NAME_BYTES else ""


def credentials_of(config: Config) -> Credentials:
    """Read what an agent shows its coordinator, and the authority that it trusts.

    Raises:
        NotFoundError, NotPermittedError, InvalidRequestError: of the file that is missing, closed to us or wrong.
    """
    if (config.cert is None) != (config.key is None):
        raise InvalidRequestError("--cert and --key belong together")
    pair = None
    if config.cert is not None and config.key is not None:
        pair = identity_files.read_file(config.cert), identity_files.read_file(config.key)
    token = config.coordinator_token_file
    return Credentials(
        token=None if token is None else token_file.read(token),
        ca=None if config.ca is None else identity_files.read_file(config.ca),
        client_certificate=pair,
    )


def check_address(text: str) -> None:
    """Raise `InvalidRequestError` for what is no address, `NotPermittedError` for one that gets no token."""
    address = addresses.parse(text)
    if not address.secure and not address.is_loopback:
        raise NotPermittedError(
            f"--coordinator {text} is on another host, which needs TLS: write grpcs://{address.target}, and pass the "
            "authority that signed its certificate by --ca"
        )


def _wait_for_id(store: Store) -> str:
    """Return the id of the root, once a coordinator has noted one: an agent writes nothing but shards."""
    told_at = -_NOTICE_S
    while True:
        why = "no coordinator has opened it yet"
        try:
            if (known := read_id(store)) is not None:
                return known
        except CkptdError as error:
            if not error.retryable:
                raise
            why = str(error)
        if time.monotonic() - told_at >= _NOTICE_S:
            told_at = time.monotonic()
            _log.info("waiting for %s: %s", store.url, why)
        time.sleep(_AGAIN_S)
