"""The agents that read together: which are alive, which are passed by, and which of them owns a block.

The owners of blocks are found by hashes: every host finds the same ones, without a word. A group of neighbouring blocks
is shared out evenly, so that each host's link to the store has as much to bring as every other's.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from ckptd.errors import CkptdError

_log = logging.getLogger("ckptd.agent")

GROUP_BLOCKS = 64
KNOWN_S = 5.0  # how long it is believed which agents there are
_PASSED_BY_S = 30.0  # then it is asked again
_MOST_GROUPS = 64


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A live agent, and where it is reached."""

    host: str
    addresses: tuple[str, ...]


def owners_of(
    key: str, version: str, first: int, count: int, hosts: Collection[str], without: Collection[str] = ()
) -> list[str]:
    """Return which host owns each of `count` blocks of an object in a version, from block `first` on.

    Each block goes to the host with which it gives the highest hash, of those whose share of the group is not full yet.
    If a host comes or goes, most of the blocks of the others keep their owners. What belongs to a host of `without`
    goes to another one, and nothing else changes.

    One host at least is not in `without`.
    """
    words = "\0".join((key, version)).encode("utf-8", "surrogateescape")
    keys = {host: hashlib.sha256(host.encode("utf-8", "surrogateescape")).digest() for host in hosts}

    def ranked(number: int) -> list[str]:
        block = words + number.to_bytes(8, "little")
        return sorted(
            hosts, key=lambda host: (hashlib.blake2b(block, digest_size=8, key=keys[host]).digest(), host), reverse=True
        )

    share, more = divmod(count, len(keys))
    left = dict.fromkeys(keys, share)
    for host in ranked((1 << 63) + first)[:more]:
        left[host] += 1
    owners = []
    for number in range(first, first + count):
        order = ranked(number)
        owner = next(host for host in order if left[host])
        left[owner] -= 1
        if owner in without:
            owner = next(host for host in order if host not in without)
        owners.append(owner)
    return owners


class Neighbourhood:
    """See the module. Any thread may use it."""

    def __init__(
        self, host: str, find: Callable[[], Sequence[Neighbour]], now: Callable[[], float] = time.monotonic
    ) -> None:
        """Know nobody yet.

        Args:
            host: of this agent.
            find: returns the agents that are alive, as the coordinator knows them.
            now: seconds on a forward-only clock.
        """
        self._host, self._ask, self._now = host, find, now
        self._lock, self._finding = threading.Lock(), threading.Lock()
        self._known: dict[str, Neighbour] = {}
        self._known_at: float | None = None
        self._silent_until: dict[str, float] = {}
        self._owners: OrderedDict[tuple[object, ...], list[str]] = OrderedDict()

    def is_silent(self, host: str) -> bool:
        """Whether it is passed by."""
        with self._lock:
            return self._silent_until.get(host, 0.0) > self._now()

    def pass_by(self, host: str, error: CkptdError) -> None:
        """Ask it for nothing, for a while."""
        with self._lock:
            is_new = self._silent_until.get(host, 0.0) <= self._now()
            self._silent_until[host] = self._now() + _PASSED_BY_S
        if is_new:
            _log.warning("the agent on %s is passed by for %.0f s: %s", host, _PASSED_BY_S, error)

    def owner(self, key: str, version: str, number: int, num_blocks: int) -> Neighbour | None:
        """Return who is asked for a block of an object that has so many, None if that is ours."""
        live, now = self.live(), self._now()
        hosts = frozenset((*live, self._host))
        with self._lock:
            silent = frozenset(host for host in live if self._silent_until.get(host, 0.0) > now)
        group = number // GROUP_BLOCKS
        what = key, version, group, num_blocks, hosts, silent
        with self._lock:
            owners = self._owners.get(what)
            if owners is not None:
                self._owners.move_to_end(what)
        if owners is None:
            first = group * GROUP_BLOCKS
            owners = owners_of(key, version, first, min(GROUP_BLOCKS, num_blocks - first), hosts, silent)
            with self._lock:
                self._owners[what] = owners
                while len(self._owners) > _MOST_GROUPS:
                    self._owners.popitem(last=False)
        owner = owners[number - group * GROUP_BLOCKS]
        return None if owner == self._host else live[owner]

    def live(self) -> dict[str, Neighbour]:
        """Return the others that are alive, by host."""
        with self._lock:
            at, now = self._known_at, self._now()
            if at is not None and now - at <= KNOWN_S:
                return self._known
            if at is not None:
                self._known_at = now  # others go on with what is known
        if at is not None:
            return self._find()
        with self._finding:  # nothing is known yet: one asks, and the others wait for its answer
            with self._lock:
                if self._known_at is not None:
                    return self._known
            return self._find()

    def _find(self) -> dict[str, Neighbour]:
        try:
            found = {each.host: each for each in self._ask() if each.addresses and each.host != self._host}
        except CkptdError as error:
            _log.info("which agents there are is not known: %s", error)
            found = {}
        with self._lock:
            self._known, self._known_at = found, self._now()
            return found
