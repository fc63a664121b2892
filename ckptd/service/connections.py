"""Connections that hold descriptors and show no identity are closed, and no host, user or identity has them all.

gRPC has no limit for the connections of one peer, and keeps one that never makes a call for as long as its limit of
idle ones. So the daemon looks at its own sockets once in a while, and shuts those down that have not made a call with
an identity in time, or that are more than the share of their host, of their user at a Unix socket, or of their
identity. gRPC then closes them as if the other end had. What they are told names the culprit.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ckptd.printable import counted
from ckptd.service import refusal_log
from ckptd.service.peer_sockets import Endpoints, PeerSocket, Place, host_at, is_of_user, place_of

UNKNOWN_S = 10.0
"""How long a connection may show no identity. Clients make their first call as soon as they are connected."""

LOOK_EVERY_S = 0.25

_URGENT_S = 0.02  # after which a connection that is expelled is closed: thousands of calls come over it in a second

_UNKNOWN_OF_HOST = 8  # an eighth of all descriptors, for connections of one host that have shown no identity

AUTHORITY_GONE = "an authority of clients is trusted no longer"
"""Why connections are closed that may be of its clients."""

Tell = Callable[[str, str, int], None]
"""Is told which host's connections were closed, in what words, and how many."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What a connection has shown last, and when."""

    caller: str
    at: float


@dataclass(frozen=True, slots=True)
class _Excess:
    """A connection that is to be closed, whose it is, and why."""

    host: str
    peer: PeerSocket
    why: str


def tell_log(host: str, said: str, number: int) -> None:
    """Write it to the log."""
    refusal_log.log.refused(f"{host}:0", said, {"event": "connections_closed", "peer": host, "number": number})


class Connections:
    """The connections to what a server is bound to. Any thread may note; one at a time looks."""

    def __init__(
        self,
        endpoints: Endpoints,
        *,
        allowed: int,
        now: Callable[[], float] = time.monotonic,
        tell: Tell = tell_log,
    ) -> None:
        """Watch the connections to `endpoints`, where so many descriptors are `allowed` in all."""
        self.endpoints = endpoints
        self._allowed = allowed
        self._now = now
        self._tell = tell
        self._guard = threading.Lock()
        self._known: dict[Place, _Known] = {}
        self._since: dict[Place, float] = {}  # when those were seen first that are there
        self._expelled: set[Place] = set()
        self._is_ending = False
        self._wakes = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ckptd-connections", daemon=True)

    def note(self, peer: str, caller: str) -> None:
        """Note that a call of `peer`, as gRPC names it, has shown the identity `caller`."""
        place = place_of(peer)
        if place is not None:
            with self._guard:
                self._known[place] = _Known(caller, self._now())

    def expel(self, peer: str) -> None:
        """Have a connection closed at the next look, which comes soon, whatever it has shown."""
        place = place_of(peer)
        if place is not None:
            with self._guard:
                self._expelled.add(place)
            self._wakes.set()

    def close_all(self, why: str) -> None:
        """Close those with TLS at once, whatever they have shown: clients connect again, if they still may."""
        secure = replace(self.endpoints, ports=self.endpoints.ports - self.endpoints.plain_ports, paths=frozenset())
        closed = sum(secure.shut_down(each, why) for each in list(secure.sockets(self._allowed)))
        if closed:
            self._tell("all hosts", f"{closed} connections were closed: {why}", closed)

    def start(self) -> None:
        """Look now and then, from a thread of its own, until `stop`."""
        self._thread.start()

    def stop(self) -> None:
        """End that. May be repeated."""
        self._is_ending = True
        self._wakes.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        took_s = 0.0
        while not self._is_ending:
            # With thousands of connections a look takes a while: it never takes more than a small part of the time.
            if self._wakes.wait(max(LOOK_EVERY_S, 20 * took_s)):
                time.sleep(max(_URGENT_S, 5 * took_s))
                self._wakes.clear()
            began = time.monotonic()
            self.look()
            took_s = time.monotonic() - began

    def look(self) -> None:
        """Shut down what has shown no identity in time, or is more than a share."""
        began = self._now()
        seen = list(self.endpoints.sockets(self._allowed))
        with self._guard:
            here = {each.place for each in seen}
            self._since = {place: self._since.get(place, began) for place in here}
            self._known = {place: known for place, known in self._known.items() if place in here or known.at >= began}
            known, expelled, self._expelled = dict(self._known), self._expelled, set()
        known.update({place: _Known(place[0], began) for place in here if is_of_user(place)})
        wrong = [
            _Excess(host_at(each.place), each, "they showed wrong tokens") for each in seen if each.place in expelled
        ]
        closed: Counter[tuple[str, str]] = Counter()
        for each in [*wrong, *self._too_many(seen, known, began)]:
            closed[each.host, each.why] += self.endpoints.shut_down(
                each.peer, f"connections from {each.host} were closed: {each.why}"
            )
        for (host, why), number in closed.items():
            if number:
                was = "was" if number == 1 else "were"
                self._tell(host, f"{counted(number, 'connection')} from {host} {was} closed: {why}", number)

    def _too_many(self, seen: list[PeerSocket], known: dict[Place, _Known], now: float) -> Iterator[_Excess]:
        """Yield what is to be closed: the connections that came last, of those alike."""
        by_host: dict[str, list[PeerSocket]] = {}
        by_caller: dict[str, list[PeerSocket]] = {}
        for each in sorted(seen, key=lambda each: self._since[each.place]):
            by_host.setdefault(host_at(each.place), []).append(each)
            if each.place in known:
                by_caller.setdefault(known[each.place].caller, []).append(each)
        for host, connections in by_host.items():
            yield from self._of_host(host, connections, known, now)
        most = max(1, self._allowed * 7 // 8)
        for caller, connections in by_caller.items():
            for each in connections[most:]:
                yield _Excess(
                    host_at(each.place),
                    each,
                    f"{caller} has {len(connections)}, and an identity may have {most}: raise the limit of open files",
                )

    def _of_host(
        self, host: str, connections: list[PeerSocket], known: dict[Place, _Known], now: float
    ) -> Iterator[_Excess]:
        most, most_unknown = max(1, self._allowed * 3 // 4), max(1, self._allowed // _UNKNOWN_OF_HOST)
        unknown = [each for each in connections if each.place not in known]
        late = [each for each in unknown if now - self._since[each.place] >= UNKNOWN_S]
        rest = unknown[len(late) :]
        for each in late:
            yield _Excess(host, each, f"they have shown no identity within {UNKNOWN_S:g} s")
        for each in rest[most_unknown:]:
            yield _Excess(host, each, f"{len(rest)} of them show no identity, which {most_unknown} may for a moment")
        others = [each for each in connections if each.place in known]
        for each in others[most:]:
            yield _Excess(
                host,
                each,
                f"there are {len(others)}, and one host or user may have {most}: raise the limit of open files",
            )
