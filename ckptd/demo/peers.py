"""How workers exchange arrays: a socket between each two of them, with no parent and no lock in between.

A process that dies closes its sockets, so the others notice at once instead of waiting at a barrier that
it will never reach. Sums are taken in the order of the ranks, so that every worker gets the same bits.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class PeerLostError(Exception):
    """Another worker has gone; `rank` says which."""

    def __init__(self, rank: int) -> None:
        super().__init__(f"worker {rank} is gone")
        self.rank = rank


class Peers:
    """One worker's end of its connections to all the others."""

    def __init__(self, rank: int, connections: Mapping[int, socket.socket], timeout_s: float) -> None:
        self.rank = rank
        self._connections = dict(sorted(connections.items()))
        for connection in self._connections.values():
            connection.settimeout(timeout_s)

    def close(self) -> None:
        """Close all connections."""
        for connection in self._connections.values():
            connection.close()

    def exchange(self, outgoing: Callable[[int], Floats], incoming: Callable[[int], Floats]) -> dict[int, Floats]:
        """Send ``outgoing(peer)`` to each peer and fill ``incoming(peer)`` from it; return what came, by rank.

        Both callables give C-contiguous arrays. Every worker must call this alike. Of two peers the lower rank sends
        first; as each goes through its peers in ascending order, all agree on one order of pairs and none waits in a
        circle.
        """
        received: dict[int, Floats] = {}
        for peer, connection in self._connections.items():
            array = incoming(peer)
            try:
                if self.rank < peer:
                    connection.sendall(memoryview(outgoing(peer).data).cast("B"))
                    _receive_into(connection, memoryview(array.data).cast("B"))
                else:
                    _receive_into(connection, memoryview(array.data).cast("B"))
                    connection.sendall(memoryview(outgoing(peer).data).cast("B"))
            except OSError as e:
                raise PeerLostError(peer) from e
            received[peer] = array
        return received

    def sum(self, array: Floats) -> Floats:
        """Return the sum of all workers' `array`, the same bits on every worker."""
        own = np.ascontiguousarray(array)
        parts = self.exchange(lambda _: own, lambda _: np.empty_like(own))
        return in_rank_order({**parts, self.rank: own})


def in_rank_order(parts: Mapping[int, Floats]) -> Floats:
    """Add arrays up from rank 0 on: floating point gives other bits in another order."""
    total: Floats | None = None
    for _, part in sorted(parts.items()):
        if total is None:
            total = part.copy()
        else:
            total += part
    assert total is not None
    return total


def _receive_into(connection: socket.socket, into: memoryview) -> None:
    """Fill `into`, or raise when the other end has hung up."""
    at = 0
    while at < len(into):
        count = connection.recv_into(into[at:])
        if count == 0:
            raise ConnectionResetError("the other end hung up")
        at += count
