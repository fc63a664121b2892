"""The agents of other hosts, as this one reaches them: by which address, and how fast bytes go to and from each.

An operator may have given an agent several addresses, the best first. One that did not answer is avoided for a while,
as long as there is another.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import grpc

from ckptd.engine.hosts.views import PeerView
from ckptd.errors import UnavailableError
from ckptd.wire import addresses, methods
from ckptd.wire.channels import open_channel
from ckptd.wire.credentials import NO_CREDENTIALS, Credentials

AVOID_S = 10.0


class PeerStubs:
    """The services of one agent at one address."""

    def __init__(self, host: str, address: str, channel: grpc.Channel) -> None:
        """Make no call yet."""
        self.host, self.address, self.channel = host, address, channel
        self.save, self.read = methods.Stub(channel, methods.SAVE), methods.Stub(channel, methods.READ)


@dataclass(slots=True)
class _Traffic:
    """What goes to and from one host. The lock of `OtherAgents` guards it."""

    address: str = ""
    sent_bytes: int = 0
    read_bytes: int = 0
    num_busy: int = 0
    since: float = 0.0  # while busy
    busy_s: float = 0.0  # lately, without what is under way
    recent_bytes: int = 0


_RECENT_S = 30.0  # of traffic; then half of it is forgotten


class OtherAgents:
    """See the module. Any thread may use it."""

    def __init__(
        self,
        credentials: Callable[[], Credentials] = lambda: NO_CREDENTIALS,
        now: Callable[[], float] = time.monotonic,
        peer_name: str | None = None,
    ) -> None:
        """Reach nobody yet.

        Args:
            credentials: what this agent shows, and wants to see; the same as at its coordinator.
            now: a forward-only clock, in seconds.
            peer_name: what certificates of other agents are for; None for the host by which each is reached.
        """
        self._credentials, self._now, self._peer_name = credentials, now, peer_name
        self._lock = threading.Lock()
        self._stubs: dict[str, PeerStubs] = {}  # by address
        self._avoided_until: dict[str, float] = {}
        self._traffic: dict[str, _Traffic] = {}
        self._is_closed = False

    def to(self, host: str, places: Sequence[str]) -> PeerStubs:
        """Return the services of a host's agent, by the first of its addresses that is not avoided.

        Raises:
            UnavailableError: it has told no address, or this agent is stopping.
        """
        with self._lock:
            if not places or self._is_closed:
                raise UnavailableError(f"the agent on {host} has no address: start it with --advertise")
            now = self._now()
            place = next((each for each in places if self._avoided_until.get(each, 0.0) <= now), places[0])
            self._traffic.setdefault(host, _Traffic()).address = place
            stubs = self._stubs.get(place)
            if stubs is None or stubs.host != host:
                if stubs is not None:
                    stubs.channel.close()
                stubs = self._stubs[place] = PeerStubs(host, place, self._open(place))
            return stubs

    def _open(self, place: str) -> grpc.Channel:
        address, shown = addresses.parse(place), self._credentials()
        if not address.secure:
            token = shown.token if address.is_loopback else None
            return open_channel(address, token=token)
        return open_channel(
            address,
            token=shown.token,
            ca=shown.ca,
            client_certificate=shown.client_certificate,
            server_name=self._peer_name,
        )

    def avoid(self, stubs: PeerStubs) -> None:
        """Prefer other addresses of this agent for a while, as this one does not answer."""
        with self._lock:
            self._avoided_until[stubs.address] = self._now() + AVOID_S

    def is_avoided(self, place: str) -> bool:
        """Whether an address did not answer lately."""
        with self._lock:
            return self._avoided_until.get(place, 0.0) > self._now()

    def close(self) -> None:
        """Hang up."""
        with self._lock:
            self._is_closed, stubs, self._stubs = True, self._stubs, {}
        for each in stubs.values():
            each.channel.close()

    # What goes to and fro

    @contextmanager
    def busy(self, host: str) -> Iterator[None]:
        """Say that bytes are under way to or from a host, for its rate."""
        with self._lock:
            traffic = self._traffic.setdefault(host, _Traffic())
            traffic.since = traffic.since if traffic.num_busy else self._now()
            traffic.num_busy += 1
        try:
            yield
        finally:
            with self._lock:
                traffic.num_busy -= 1
                if not traffic.num_busy:
                    traffic.busy_s += self._now() - traffic.since
                if traffic.busy_s > _RECENT_S:
                    traffic.busy_s, traffic.recent_bytes = traffic.busy_s / 2, traffic.recent_bytes // 2

    def sent(self, host: str, size_bytes: int) -> None:
        """Count bytes that a host's agent has taken."""
        with self._lock:
            traffic = self._traffic.setdefault(host, _Traffic())
            traffic.sent_bytes += size_bytes
            traffic.recent_bytes += size_bytes

    def read(self, host: str, size_bytes: int) -> None:
        """Count bytes that came from a host's agent."""
        with self._lock:
            traffic = self._traffic.setdefault(host, _Traffic())
            traffic.read_bytes += size_bytes
            traffic.recent_bytes += size_bytes

    def rates(self) -> list[PeerView]:
        """Return what went to and from each host, by host."""
        with self._lock:
            now, found = self._now(), []
            for host, each in sorted(self._traffic.items()):
                busy_s = each.busy_s + (now - each.since if each.num_busy else 0.0)
                rate = each.recent_bytes / busy_s if busy_s > 0 else 0.0
                found.append(PeerView(host, each.address, each.sent_bytes, each.read_bytes, rate))
            return found
