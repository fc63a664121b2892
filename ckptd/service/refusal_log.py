"""Log lines about calls that were refused: enough to see what is wrong, and never as many as a caller likes.

What reaches a port can cause refusals, without a token too. So each line is bounded, what one peer causes is bounded,
and so is what all of them cause; the lines that were left out are counted in the next one that is written.
"""

from __future__ import annotations

import ipaddress
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ckptd.printable import counted, printable

_log = logging.getLogger("ckptd.service")

BURST = 20
"""So many refusals of one peer are logged at once; after that one a second."""

BURST_OF_ALL = 200
"""So many of all peers together; after that ten a second."""

MOST_CHARACTERS = 400
"""Of a text that came from outside, in one line."""

_PER_SECOND, _PER_SECOND_OF_ALL = 1.0, 10.0
_MOST_PEERS = 1024
_MOST_TEXTS = 1024
_QUIET_S = 30.0  # the same refusal is logged so often at most
_NETWORKS = ("ipv4", "ipv6")


@dataclass(slots=True)
class LineBudget:
    """What may still be logged, and what was not. Belongs to its owner's lock."""

    tokens: float
    at: float
    left_out: int = 0

    def take(self, now: float, most: float, per_second: float) -> bool:
        """Say whether one more may be logged now: `most` at once, and `per_second` after that."""
        self.tokens = min(most, self.tokens + (now - self.at) * per_second)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class PeerBudgets:
    """How many lines each peer, and all of them, may still cause. Any thread may use it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._guard = threading.Lock()
        self._of_all = LineBudget(BURST_OF_ALL, clock())
        self._of_peer: OrderedDict[str, LineBudget] = OrderedDict()

    def take(self, peer: str) -> int | None:
        """Return how many lines were left out since the last one of a peer; None if this one is to be, too."""
        now = self._clock()
        with self._guard:
            bucket = self._of_peer.setdefault(peer, LineBudget(BURST, now))
            self._of_peer.move_to_end(peer)
            while len(self._of_peer) > _MOST_PEERS:
                self._of_peer.popitem(last=False)
            if bucket.take(now, BURST, _PER_SECOND) and self._of_all.take(now, BURST_OF_ALL, _PER_SECOND_OF_ALL):
                left_out, bucket.left_out = bucket.left_out, 0
                return left_out
            bucket.left_out += 1
            return None


class RefusalLog:
    """Writes the lines. Any thread may use it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._guard = threading.Lock()
        self._budgets = PeerBudgets(clock)
        self._said_at: OrderedDict[str, float] = OrderedDict()

    def refused(self, peer: str, text: str, fields: Mapping[str, object], *, level: int = logging.INFO) -> None:
        """Log that a call of `peer` was refused. What is left out appears at the level DEBUG, one line for each."""
        left_out = self._budgets.take(network_of(peer))
        cut = {name: value[:MOST_CHARACTERS] if isinstance(value, str) else value for name, value in fields.items()}
        if left_out is None:
            level, left_out = logging.DEBUG, 0
        were = "was" if left_out == 1 else "were"
        more = f" ({counted(left_out, 'more refusal')} of this peer {were} not logged)" if left_out else ""
        _log.log(level, "%s%s", printable(text, limit=MOST_CHARACTERS), more, extra={"ckptd": cut})

    def bug(self, peer: str, text: str) -> None:
        """Log the exception that is being handled, a bug of ours that a call of `peer` met, with its traceback."""
        if self._budgets.take(network_of(peer)) is not None:
            _log.exception("%s", printable(text, limit=MOST_CHARACTERS))

    def is_repeated(self, text: str) -> bool:
        """Say whether the same was said less than half a minute ago; if not, it is said now."""
        now = self._clock()
        with self._guard:
            if now - self._said_at.get(text, now - _QUIET_S) < _QUIET_S:
                return True
            self._said_at[text] = now
            self._said_at.move_to_end(text)
            while len(self._said_at) > _MOST_TEXTS:
                self._said_at.popitem(last=False)
            return False


def host_of(peer: str) -> str:
    """Return what limits are counted for: the host of a TCP peer without its port, all of a Unix socket together."""
    kind, _, rest = peer.partition(":")
    return f"{kind}:{rest.rpartition(':')[0]}" if kind in _NETWORKS else kind


def network_of(peer: str) -> str:
    """Return the same, but for a host with IPv6 its network: it has as many addresses there as it likes."""
    host = host_of(peer)
    if not host.startswith("ipv6:"):
        return host
    text = host.removeprefix("ipv6:").replace("%5B", "[").replace("%5D", "]").strip("[]").partition("%")[0]
    try:
        return f"ipv6:{ipaddress.ip_network((text, 64), strict=False).network_address}"
    except ValueError:
        return host


log = RefusalLog()
"""That of this process, whatever it serves."""
