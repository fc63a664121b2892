"""The ranks of a host that have joined, each with the place that the coordinator gave it."""

from __future__ import annotations

import logging
import secrets
import threading
from pathlib import Path

from ckptd.agent.host_call import Place
from ckptd.agent.link import AgentLink
from ckptd.engine.clock import Clock
from ckptd.engine.hosts.messages import AgentLife
from ckptd.engine.identity import Member, RunOptions
from ckptd.errors import CkptdError, ConflictError, UnavailableError
from ckptd.wire import convert, versions
from ckptd.wire.v1 import agent_pb2, common_pb2, save_pb2

_log = logging.getLogger("ckptd.agent")

_DEPART_S = 5.0  # a rank that leaves waits for that


class Seats:
    """See the module. Thread-safe. The epoch that a rank was told stays, whatever life of a coordinator there is."""

    def __init__(self, link: AgentLink, host: str) -> None:
        """Begin without ranks."""
        self._link, self._host = link, host
        self._lock = threading.Lock()
        self._places: dict[tuple[str, int], Place] = {}
        self._epochs: dict[str, int] = {}  # by run, as the coordinator said last
        self._changing: dict[tuple[str, int], threading.Lock] = {}  # held while the coordinator is told of a rank
        self._untold: dict[tuple[str, int, str], tuple[Member, int, bool]] = {}  # departures that it was not told of

    def join(self, run: str, member: Member, options: RunOptions) -> int:
        """Get a rank its place from the coordinator; return the epoch."""
        with self._changes(run, member.rank):
            epoch = self._placed(run, member, options)
            with self._lock:
                self._untold.pop((run, member.rank, member.incarnation), None)
                known = self._places.get((run, member.rank))
                if known is not None and known.member.incarnation == member.incarnation:
                    known.lost_at = None
                    return known.epoch
                self._places[run, member.rank] = Place(member, options, epoch)
        return epoch

    def _changes(self, run: str, rank: int) -> threading.Lock:
        with self._lock:
            return self._changing.setdefault((run, rank), threading.Lock())

    def _placed(self, run: str, member: Member, options: RunOptions) -> int:
        join = convert.join_to_wire(_peer_of(member), run, member, options)
        request = agent_pb2.PlaceRequest(join=join, host=self._host)
        reply = self._link.call(lambda stubs, s: stubs.agent.Place(request, timeout=s))
        with self._lock:
            self._epochs[run] = int(reply.epoch)
        return int(reply.epoch)

    def epoch(self, run: str) -> int:
        """Return the epoch of a run at the coordinator; 0 if it has told none."""
        with self._lock:
            return self._epochs.get(run, 0)

    def join_again(self) -> None:
        """Give each connected rank its place at another life of the coordinator."""
        with self._lock:
            places = [(run, place) for (run, _), place in self._places.items() if place.lost_at is None]
        for run, place in places:
            try:
                self._placed(run, place.member, place.options)
            except CkptdError as error:
                _log.warning("%s of %s has no place at the coordinator: %s", place.member, run, error)

    def check(self, run: str, rank: int, incarnation: str, epoch: int) -> Place:
        """Return a rank's place; `ConflictError` if another process has it, or none."""
        with self._lock:
            place = self._places.get((run, rank))
        if place is None or place.member.incarnation != incarnation or place.epoch != epoch:
            raise ConflictError(f"this process does not hold the place of rank {rank} of {run}: it must join first")
        return place

    def of(self, run: str) -> dict[int, Place]:
        """Return the places of a run whose processes are connected."""
        with self._lock:
            return {rank: each for (name, rank), each in self._places.items() if name == run and each.lost_at is None}

    def are_any(self, run: str) -> bool:
        """Whether a rank has a place in a run, connected or not."""
        with self._lock:
            return any(name == run for name, _ in self._places)

    def ranks(self) -> set[int]:
        """Return the ranks that are connected."""
        with self._lock:
            return {rank for (_, rank), place in self._places.items() if place.lost_at is None}

    def views(self) -> list[tuple[str, dict[int, Place], int]]:
        """Return per run its places, and how many ranks it has on all hosts."""
        with self._lock:
            runs = dict.fromkeys(run for run, _ in self._places)
        found = [(run, self.of(run)) for run in runs]
        return [(run, places, next(iter(places.values())).member.world_size) for run, places in found if places]

    def disconnect(self, run: str, member: Member, epoch: int, now: float) -> None:
        """Note that a rank's connection broke."""
        with self._lock:
            place = self._places.get((run, member.rank))
            if place is not None and place.member.incarnation == member.incarnation and place.lost_at is None:
                place.lost_at = now

    def leave(self, run: str, member: Member, epoch: int) -> Place | None:
        """Forget a rank's place; return it."""
        with self._lock:
            place = self._places.get((run, member.rank))
            if place is None or place.member.incarnation != member.incarnation:
                return None
            return self._places.pop((run, member.rank))

    def depart(self, run: str, member: Member, epoch: int, for_good: bool) -> None:
        """Tell the coordinator that a rank has gone, unless it is back; `tell_again` repeats what it did not hear."""
        leave = save_pb2.LeaveRequest(peer=_peer_of(member), run=run, rank=member.rank, epoch=epoch)
        request = agent_pb2.DepartRequest(leave=leave, for_good=for_good, host=self._host)
        key = run, member.rank, member.incarnation
        with self._changes(run, member.rank):
            with self._lock:
                place = self._places.get((run, member.rank))
                self._untold[key] = member, epoch, for_good
                if place is not None and place.member.incarnation == member.incarnation and place.lost_at is None:
                    self._untold.pop(key)
                    return
            try:
                self._link.call(lambda stubs, s: stubs.agent.Depart(request, timeout=s), timeout_s=_DEPART_S)
            except CkptdError as error:
                _log.info("the coordinator was not told yet that %s of %s has gone: %s", member, run, error)
                if not isinstance(error, UnavailableError):
                    self._told_of(key)
            else:
                self._told_of(key)

    def _told_of(self, key: tuple[str, int, str]) -> None:
        with self._lock:
            self._untold.pop(key, None)

    @property
    def are_untold(self) -> bool:
        """Whether the coordinator was not told yet of a rank that has gone."""
        with self._lock:
            return bool(self._untold)

    def tell_again(self) -> None:
        """Tell the coordinator of the ranks that have gone while it could not be told."""
        with self._lock:
            untold = list(self._untold.items())
        for (run, _, _), (member, epoch, for_good) in untold:
            self.depart(run, member, epoch, for_good)


def new_life(host: str, clock: Clock, started_by: str = "") -> AgentLife:
    """Return a new life of a host's agent; `started_by` as in `AgentLife`."""
    return AgentLife(host, secrets.token_hex(16), clock.boot_s(), this_boot(), started_by)


def this_boot() -> str:
    """Return the word for this start of the host, which all its containers share; "" where the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _peer_of(member: Member) -> common_pb2.Peer:
    return common_pb2.Peer(version=versions.VERSION, incarnation=member.incarnation, host=member.host, pid=member.pid)
