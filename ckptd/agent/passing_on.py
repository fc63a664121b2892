"""What ranks of this host have for shards of other hosts: parts of tensors that have to be stored whole.

TensorFlow joins no slices of some dtypes (float16 and others), so one host takes such a tensor, and the agents of the
others pass their parts on to the agent there. This host's part of the save is sealed once these have arrived, too.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from ckptd.agent.other_agents import OtherAgents, PeerStubs
from ckptd.agent.passed_lane import PassedLane
from ckptd.engine.hosts.messages import Go, Passing
from ckptd.engine.identity import SaveRef
from ckptd.engine.lanes.lane_writer import LaneWriter
from ckptd.engine.lanes.shard import Debt
from ckptd.engine.lanes.standstill import Standstill
from ckptd.engine.layout import Lane, LaneTransport, Layout
from ckptd.engine.saves.claim import Claim
from ckptd.errors import CkptdError, ConflictError

_log = logging.getLogger("ckptd.agent")

AT_ONCE = 4
"""Lanes from captured memory, of one agent."""


@dataclass(frozen=True, slots=True)
class Ways:
    """What all of an agent's passing on has in common.

    Attributes:
        peers: the agents of other hosts.
        coordinator: returns how the coordinator is reached, which takes the parts of tensors of ranks without agents.
        now: seconds on a forward-only clock.
        submit: runs work on one of `AT_ONCE` threads.
    """

    peers: OtherAgents
    coordinator: Callable[[], PeerStubs]
    now: Callable[[], float]
    submit: Callable[..., None]


@dataclass(eq=False, slots=True)
class _OnTheWay:
    """One lane, of one attempt to pass it on."""

    to: Passing
    writer: LaneWriter
    sent: PassedLane


class PassingOn:
    """See the module: all of that of one save. Thread-safe."""

    def __init__(
        self,
        go: Go,
        claims: Mapping[int, Claim],
        ref: Callable[[int], SaveRef],
        around: Ways,
        *,
        on_passed: Callable[[], None],
        on_failure: Callable[[CkptdError], None],
    ) -> None:
        """Begin to pass on what is captured, or comes.

        Args:
            go: what this host was told.
            claims: of its ranks.
            ref: returns the save as a rank names it.
            around: see there.
            on_passed: called when all of it has arrived.
            on_failure: called with what makes the save impossible.
        """
        self._claims, self._ref, self._around = claims, ref, around
        self._on_passed, self._on_failure = on_passed, on_failure
        self._lock = threading.RLock()
        self._lanes: dict[tuple[int, int], _OnTheWay] = {}
        self._standstill = Standstill([claim.capture for claim in claims.values() if claim.capture is not None])
        self._is_closed = False
        self.size_bytes = 0
        with self._lock:
            for each in go.passing:
                for rank in each.share.senders_of.get(each.shard, ()):
                    self._begin(each, rank)
            self.size_bytes = sum(lane.writer.size_bytes for lane in self._lanes.values())

    def _begin(self, to: Passing, rank: int) -> None:
        key = rank, to.shard
        out = PassedLane(
            to.key,
            int(to.share.segment_size[to.share.lane_segments[key]].sum()),
            self._ref(rank),
            to.shard,
            to.host or "the coordinator",
            stubs=lambda: self._stubs(lane.to),
            peers=self._around.peers,
            now=self._around.now,
            on_passed=lambda: self._passed(lane),
            on_anew=lambda: self._begin_anew(lane),
            on_failure=lambda error: self._failed(lane, error),
        )
        writer = LaneWriter(
            to.share,
            rank,
            to.shard,
            out,
            now=self._around.now,
            on_end=lambda: out.end(writer.crcs),
            on_failure=lambda error: self._failed(lane, error),
        )
        lane = self._lanes[key] = _OnTheWay(to, writer, out)
        self._claims[rank].feed(to.share, [writer], self._standstill, partial(self._around.submit, self._feed, out))

    def _stubs(self, to: Passing) -> PeerStubs:
        return self._around.peers.to(to.host, to.addresses) if to.host else self._around.coordinator()

    @staticmethod
    def _feed(out: PassedLane, feed: Callable[..., None], *arguments: object) -> None:
        feed(*arguments)
        out.wait()  # so that no more are under way than there are threads

    def _is_present(self, lane: _OnTheWay) -> bool:
        return not self._is_closed and self._lanes.get((lane.writer.rank, lane.to.shard)) is lane

    def _passed(self, lane: _OnTheWay) -> None:
        if self._is_present(lane) and self.is_passed:
            self._on_passed()

    def _failed(self, lane: _OnTheWay, error: CkptdError) -> None:
        # No lock is taken: the lane's own is held.
        if self._is_present(lane):
            self._on_failure(error)

    def _begin_anew(self, lane: _OnTheWay) -> None:
        """Pass a lane on from its first byte: the agent there has lost it."""
        with self._lock:
            if not self._is_present(lane):
                return
            rank, to = lane.writer.rank, lane.to
            claim = self._claims[rank]
            if claim.capture is None:
                error = ConflictError(
                    f"the agent on {to.host} began anew, and rank {rank} had sent its bytes, which are kept nowhere: "
                    "they are not in shared memory",
                    key=to.key,
                )
            else:
                _log.info("rank %d: the agent on %s began anew, and is sent all of its bytes again", rank, to.host)
                del self._lanes[rank, to.shard]
                self._end(lane, ConflictError("it is sent again"))
                self._begin(to, rank)
                return
        self._on_failure(error)

    @staticmethod
    def _end(lane: _OnTheWay, reason: CkptdError) -> None:
        # Without waiting for a write under way, which may wait for a lock of ours.
        lane.writer.refuse(reason)
        lane.sent.close(reason)

    # What the save asks

    @property
    def is_passed(self) -> bool:
        """Whether all of it has arrived."""
        with self._lock:
            return all(lane.sent.is_passed for lane in self._lanes.values())

    def renew(self, go: Go) -> None:
        """Hear where the shards' agents are now: what a former life of one had taken is passed on again."""
        with self._lock:
            places = {each.shard: each for each in go.passing}
            for lane in [] if self._is_closed else list(self._lanes.values()):
                to = places.get(lane.to.shard)
                if to is not None and (to.by, to.addresses) != (lane.to.by, lane.to.addresses):
                    lane.to = to
                    if lane.sent.confirmed:  # else it knocks there from now on
                        self._begin_anew(lane)

    def lane(self, rank: int, shard: int) -> LaneWriter | None:
        """Return where bytes that a rank sends go, if they are for the shard of another host."""
        with self._lock:
            lane = self._lanes.get((rank, shard))
            return None if lane is None else lane.writer

    def lanes(self, rank: int, transport: LaneTransport) -> Iterator[Lane]:
        """Yield what a rank sends of it."""
        with self._lock:
            ours = [(key[1], lane.to) for key, lane in self._lanes.items() if key[0] == rank]
        for shard, to in ours:
            yield lane_of(to.share, rank, shard, to.key, transport)

    def debts(self) -> dict[tuple[int, str], Debt]:
        """Return, by rank and host ("" for the coordinator), what has not arrived there."""
        now, found = self._around.now(), {}
        with self._lock:
            for (rank, _), lane in self._lanes.items():
                owed = lane.writer.size_bytes - lane.sent.confirmed
                if not lane.sent.is_passed:
                    at = max(lane.writer.progressed_at, lane.sent.progressed_at)
                    debt = Debt(owed, lane.writer.size_bytes, now - at)
                    found[rank, lane.to.host] = debt
        return found

    def owed_bytes(self) -> int:
        """Return how much has not arrived."""
        with self._lock:
            return sum(lane.writer.size_bytes - lane.sent.confirmed for lane in self._lanes.values())

    def trouble(self) -> str:
        """Say why a lane does not go at this moment, "" if all do."""
        with self._lock:
            return next((lane.sent.trouble for lane in self._lanes.values() if lane.sent.trouble), "")

    def close(self, reason: CkptdError) -> None:
        """Pass nothing more on."""
        with self._lock:
            self._is_closed = True
            for lane in self._lanes.values():
                self._end(lane, reason)


def lane_of(layout: Layout, rank: int, shard: int, key: str, transport: LaneTransport) -> Lane:
    """Return what a rank sends to a shard."""
    rows = layout.lane_segments[rank, shard]
    return Lane(
        shard,
        key,
        (),
        int(layout.segment_size[rows].sum()),
        layout.segment_item[rows],
        layout.segment_item_offset[rows],
        layout.segment_size[rows],
        transport,
    )
