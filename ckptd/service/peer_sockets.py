"""The sockets of this process on which its peers have connected: the peer of each, and how to end one.

gRPC does not tell which sockets it has. They are found among the descriptors of the process, by where they were bound.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from ckptd.service.refusal_log import network_of
from ckptd.wire.addresses import Address
from ckptd.wire.tickets import credentials_at

_MOST_LISTED = 1 << 16
_USER = "uid:"
_GOAWAY = 7
_MOST_FAREWELL = 400

Place = tuple[str, int]
"""The peer: an address and a port, or the user of a Unix socket and the connection's number."""


@dataclass(frozen=True, slots=True)
class PeerSocket:
    """A connection, by its descriptor at the time of the look."""

    descriptor: int
    place: Place


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a server is bound.

    Attributes:
        ports: of TCP.
        plain_ports: those of them that do not use TLS.
        paths: of Unix sockets.
    """

    ports: frozenset[int] = frozenset()
    plain_ports: frozenset[int] = frozenset()
    paths: frozenset[str] = frozenset()

    @classmethod
    def of(cls, addresses: Sequence[Address], http_ports: Sequence[int] = ()) -> Endpoints:
        """Return where a server is bound that listens there, and at ports where gRPC is not spoken.

        What `shut_down` tells would be no answer there: they count as encrypted, and it says nothing.
        """
        networks = [address for address in addresses if not address.is_unix]
        return cls(
            frozenset((*(address.port for address in networks), *http_ports)),
            frozenset(address.port for address in networks if not address.secure),
            frozenset(address.path for address in addresses if address.is_unix),
        )

    def sockets(self, allowed: int) -> Iterator[PeerSocket]:
        """Yield the connections that there are, where so many descriptors are `allowed`."""
        for descriptor in _descriptors(allowed):
            with contextlib.suppress(OSError), _held(descriptor) as connection:
                place = self._place_at(connection)
                if place is not None:
                    yield PeerSocket(descriptor, place)

    def shut_down(self, peer: PeerSocket, why: str) -> bool:
        """Shut a connection down, if its descriptor is still that connection's; say whether.

        The peer is told why, unless that would have to be encrypted.
        """
        with contextlib.suppress(OSError), _held(peer.descriptor) as connection:
            if self._place_at(connection) == peer.place:
                if connection.family == socket.AF_UNIX or connection.getsockname()[1] in self.plain_ports:
                    with contextlib.suppress(OSError):  # it takes nothing
                        connection.send(_farewell(why), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                connection.shutdown(socket.SHUT_RDWR)
                return True
        return False

    def _place_at(self, connection: socket.socket) -> Place | None:
        """Return the other end of a connection to one of our addresses; None for any other socket."""
        if connection.family == socket.AF_UNIX:
            if not self.paths or connection.getsockname() not in self.paths:
                return None
            connection.getpeername()  # one that listens has none
            _, uid = credentials_at(connection)
            return f"{_USER}{uid}", os.fstat(connection.fileno()).st_ino
        if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.getsockname()[1] not in self.ports:
            return None
        host, port, *_ = connection.getpeername()
        return _plain(host), port


def place_of(peer: str) -> Place | None:
    """Return the address and port in gRPC's name of a TCP peer; None for any other."""
    kind, _, rest = peer.partition(":")
    host, _, port = unquote(rest).rpartition(":")
    if kind not in ("ipv4", "ipv6") or not port.isdecimal():
        return None
    return _plain(host.strip("[]")), int(port)


def is_of_user(place: Place) -> bool:
    """Say whether a connection is that of a Unix socket: the kernel has told whose."""
    return place[0].startswith(_USER)


def host_at(place: Place) -> str:
    """Return what a share is of: a user, an IPv4 address, or an IPv6 network, of which one host has all addresses."""
    if is_of_user(place):
        return place[0]
    return network_of(f"ipv6:[{place[0]}]:0" if ":" in place[0] else f"ipv4:{place[0]}:0")


def _farewell(why: str) -> bytes:
    """Return a GOAWAY of HTTP/2 that tells why: gRPC's clients put it into the error of their calls."""
    payload = struct.pack(">II", 0x7FFFFFFF, 0) + why.encode("ascii", "replace")[:_MOST_FAREWELL]
    return struct.pack(">I", len(payload))[1:] + bytes((_GOAWAY, 0)) + bytes(4) + payload


def _descriptors(allowed: int) -> Iterable[int]:
    try:
        return map(int, os.listdir("/proc/self/fd"))  # noqa: PTH208 - there may be thousands
    except OSError as error:
        # None is left to list them by: then there are as many as are allowed.
        return range(min(allowed, _MOST_LISTED)) if error.errno == errno.EMFILE else ()


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


def _plain(host: str) -> str:
    """Return one spelling for each address: IPv4's own where it is wrapped in IPv6."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
