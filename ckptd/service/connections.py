"""Connections that hold descriptors and show no identity are closed, and no host has them all.

gRPC has no limit for the connections of one peer, and keeps one for as long as it is silent. So the daemon looks at its
own sockets once in a while, and shuts those down that have not made a call with an identity in time, or that are more
than their host's share. gRPC then closes them as if the other end had.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote

from ckptd.service import refusal_log

UNKNOWN_S = 10.0
"""How long a connection may show no identity. Clients make their first call as soon as they are connected."""

LOOK_EVERY_S = 0.25

_UNKNOWN_OF_HOST = 8  # an eighth of all descriptors, for connections of one host that have shown no identity
_MOST_LISTED = 1 << 16

Place = tuple[str, int]
"""A peer's address and port."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """A connection, by its descriptor at the time of the look."""

    descriptor: int
    place: Place


class Connections:
    """The TCP connections to `ports` of this daemon. Any thread may note; one at a time looks."""

    def __init__(self, ports: Collection[int], *, allowed: int, now: Callable[[], float] = time.monotonic) -> None:
        """Watch the connections to `ports`, where so many descriptors are `allowed` in all."""
        self.ports = frozenset(ports)
        self._allowed = allowed
        self._now = now
        self._guard = threading.Lock()
        self._known: dict[Place, float] = {}  # when they showed an identity last
        self._since: dict[Place, float] = {}  # when those were seen first that are there
        self._expelled: set[Place] = set()
        self._is_ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ckptd-connections", daemon=True)

    def note(self, peer: str) -> None:
        """Note that a call of `peer`, as gRPC names it, has shown an identity."""
        place = place_of(peer)
        if place is not None:
            with self._guard:
                self._known[place] = self._now()

    def expel(self, peer: str) -> None:
        """Have a connection closed at the next look, whatever it has shown."""
        place = place_of(peer)
        if place is not None:
            with self._guard:
                self._expelled.add(place)

    def start(self) -> None:
        """Look now and then, from a thread of its own, until `stop`."""
        self._thread.start()

    def stop(self) -> None:
        """End that. May be repeated."""
        self._is_ending.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        pause_s = LOOK_EVERY_S
        while not self._is_ending.wait(pause_s):
            began = time.monotonic()
            self.look()
            # With thousands of connections a look takes a while: it never takes more than a twentieth of the time.
            pause_s = max(LOOK_EVERY_S, 20 * (time.monotonic() - began))

    def look(self) -> None:
        """Shut down what has shown no identity in time, or is more than its host's share."""
        began = self._now()
        seen = list(self._seen())
        with self._guard:
            here = {each.place for each in seen}
            self._since = {place: self._since.get(place, began) for place in here}
            self._known = {place: at for place, at in self._known.items() if place in here or at >= began}
            known, expelled, self._expelled = set(self._known), self._expelled, set()
        wrong = [(_host(each.place), each, "they showed wrong tokens") for each in seen if each.place in expelled]
        closed: Counter[tuple[str, str]] = Counter()
        for host, each, why in [*wrong, *self._too_many(seen, known, began)]:
            closed[host, why] += _shut_down(each, self.ports)
        for (host, why), number in closed.items():
            said = f"{number} connections from {host} were closed: {why}"
            refusal_log.log.refused(f"{host}:0", said, {"event": "connections_closed", "peer": host, "number": number})

    def _too_many(self, seen: list[_Seen], known: set[Place], now: float) -> Iterator[tuple[str, _Seen, str]]:
        """Yield what is to be closed, with its host and the reason: the connections that came last, of those alike."""
        by_host: dict[str, list[_Seen]] = {}
        for each in seen:
            by_host.setdefault(_host(each.place), []).append(each)
        most, most_unknown = max(1, self._allowed * 3 // 4), max(1, self._allowed // _UNKNOWN_OF_HOST)
        for host, connections in by_host.items():
            unknown = [each for each in connections if each.place not in known]
            unknown.sort(key=lambda each: self._since[each.place])
            late = [each for each in unknown if now - self._since[each.place] >= UNKNOWN_S]
            rest = unknown[len(late) :]
            for each in late:
                yield host, each, f"they have shown no identity within {UNKNOWN_S:g} s"
            for each in rest[most_unknown:]:
                yield host, each, f"{len(rest)} of them show no identity, which {most_unknown} may for a moment"
            others = [each for each in connections if each.place in known]
            others.sort(key=lambda each: self._since[each.place])
            for each in others[most:]:
                yield (
                    host,
                    each,
                    f"there are {len(others)}, and one host may have {most}: raise the limit of open files",
                )

    def _seen(self) -> Iterator[_Seen]:
        for descriptor in self._descriptors():
            with contextlib.suppress(OSError), _held(descriptor) as connection:
                place = _place_at(connection, self.ports)
                if place is not None:
                    yield _Seen(descriptor, place)

    def _descriptors(self) -> Iterable[int]:
        try:
            return map(int, os.listdir("/proc/self/fd"))  # noqa: PTH208 - there may be thousands
        except OSError as error:
            # None is left to list them by: then there are as many as are allowed.
            return range(min(self._allowed, _MOST_LISTED)) if error.errno == errno.EMFILE else ()


@contextlib.contextmanager
def _held(descriptor: int) -> Iterator[socket.socket]:
    """Yield a socket by a descriptor of our own: gRPC may close its own at any moment, and another takes the number.

    Where none is left it is gRPC's own for these microseconds. A connection that takes the number just then could be
    shut down in its stead; its client connects again.
    """
    try:
        own = os.dup(descriptor)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        borrowed = socket.socket(fileno=descriptor)
        try:
            yield borrowed
        finally:
            borrowed.detach()
        return
    try:
        connection = socket.socket(fileno=own)
    except OSError:  # it is a file
        os.close(own)
        raise
    with connection:
        yield connection


def _place_at(connection: socket.socket, ports: Collection[int]) -> Place | None:
    """Return the other end of a connection to one of our ports; None for any other socket."""
    if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.getsockname()[1] not in ports:
        return None
    host, port, *_ = connection.getpeername()
    return _plain(host), port


def _shut_down(seen: _Seen, ports: Collection[int]) -> bool:
    """Shut a connection down, if its descriptor is still that connection's; say whether."""
    with contextlib.suppress(OSError), _held(seen.descriptor) as connection:
        if _place_at(connection, ports) == seen.place:
            connection.shutdown(socket.SHUT_RDWR)
            return True
    return False


def place_of(peer: str) -> Place | None:
    """Return the address and port in gRPC's name of a TCP peer; None for any other."""
    kind, _, rest = peer.partition(":")
    host, _, port = unquote(rest).rpartition(":")
    if kind not in ("ipv4", "ipv6") or not port.isdecimal():
        return None
    return _plain(host.strip("[]")), int(port)


def _plain(host: str) -> str:
    """Return one spelling for each address: IPv4's own where it is wrapped in IPv6."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _host(place: Place) -> str:
    """Return what a share is of: an IPv4 address, or an IPv6 network, of which one host has all addresses it likes."""
    return refusal_log.network_of(f"ipv6:[{place[0]}]:0" if ":" in place[0] else f"ipv4:{place[0]}:0")
