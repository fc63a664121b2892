"""Which processes may save into a run: one per rank, all of one job. Pure; time is passed in.

A rank holds its place while its connection lives, and for a lease after it broke, in which the same process may come
back. While none of a job is connected, only its own processes may come, until the last lease has run out. A place that
is held is never taken over, so a second job that is started by mistake is refused. A new process in a place that fell
free starts a new *epoch*: the processes of the old one, should any wake up, are fenced off.

An operator can free a place whose process hangs, or should not be there: that process is evicted, and gets no
place again while the daemon keeps the run open.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, fields

from ckptd.engine.identity import Member, RunOptions
from ckptd.errors import ConflictError, EvictedError, InvalidRequestError

_MOST_EVICTED = 1024  # of one run, remembered


@dataclass(slots=True)
class _Place:
    member: Member
    options: RunOptions
    lost_at: float | None = None  # None while connected


@dataclass(slots=True)
class Membership:
    """The places of one run. Has one owner, which passes the time in seconds on a forward-only clock.

    Those that hold a place all have the same options, as each was compared with those before it: to compare with one of
    them is enough, and a job of thousands joins without a look at all for each.
    """

    lease_s: float
    epoch: int = 0
    world_size: int = 0
    _places: dict[int, _Place] = field(default_factory=dict)
    _connected: dict[int, _Place] = field(default_factory=dict)  # of these, those with a connection and not evicted
    _lost: dict[int, _Place] = field(default_factory=dict)  # those whose connection broke, in the order of that
    _evicted: OrderedDict[str, str] = field(default_factory=OrderedDict)  # by incarnation: by whose order

    def join(self, member: Member, now: float, options: RunOptions | None = None) -> int:
        """Give the member its place; return the epoch.

        Raises:
            ConflictError: another process holds the place, or its lease still runs; it is named.
            EvictedError: this one was evicted.
            InvalidRequestError: another rank of the job was given other options; both are named.
        """
        options = options or RunOptions()
        if not 0 <= member.rank < member.world_size:
            raise InvalidRequestError(f"there is no rank {member.rank} among {member.world_size}")
        self._check_not_evicted(member.rank, member.incarnation)
        own = self._places.get(member.rank)
        if own is not None and own.member.incarnation == member.incarnation and self.world_size == member.world_size:
            _check_agreed(member, options, self._holder(now, but=own))
            own.member, own.options, own.lost_at = member, options, None
            self._lost.pop(member.rank, None)
            self._connected[member.rank] = own
            return self.epoch
        holder = self._holder(now)
        if member.world_size != self.world_size:
            if holder is not None:
                raise self._occupied(member, holder, now)
        elif own is None:
            if holder is not None or not self._places:
                _check_agreed(member, options, holder)
                if holder is not None and not self._connected:
                    # They may be of a job that has just died. Its first rank to be replaced would begin a new epoch,
                    # and end what this process has begun by then.
                    raise self._occupied(member, holder, now)
                return self._take(member, options)
        elif self._holds(own, now):
            raise self._occupied(member, own, now)
        self.epoch += 1
        self._clear()
        return self._take(member, options)

    def _take(self, member: Member, options: RunOptions) -> int:
        if not self.epoch:
            self.epoch = 1
        self.world_size = member.world_size
        self._places[member.rank] = self._connected[member.rank] = _Place(member, options)
        return self.epoch

    def _clear(self) -> None:
        self._places.clear()
        self._connected.clear()
        self._lost.clear()

    def _holder(self, now: float, but: _Place | None = None) -> _Place | None:
        """Return one that holds a place, of those that are connected if there are any; None if no place is held."""
        for place in self._connected.values():
            if place is not but:
                return place
        # The lease of the one that was lost last ends last.
        for place in reversed(self._lost.values()):
            if place is not but and place.member.incarnation not in self._evicted:
                return place if self._holds(place, now) else None
        return None

    @property
    def is_empty(self) -> bool:
        """Whether no place is taken: the next process to join begins a new start of the job, in any epoch."""
        return not self._places

    def is_free(self, now: float) -> bool:
        """Whether no place is held any more: all were given back, or lost for longer than the lease."""
        return self._holder(now) is None

    def disconnect(self, member: Member, epoch: int, now: float) -> None:
        """Note that a member's connection broke; its lease begins. An old epoch's is ignored."""
        place = self._place(member, epoch)
        if place is not None and place.lost_at is None:
            place.lost_at = now
            self._connected.pop(member.rank, None)
            self._lost[member.rank] = place

    def leave(self, member: Member, epoch: int) -> bool:
        """Give the member's place back at once; return whether it was connected in it.

        An evicted one's stays as it is: the next in it begins a new epoch.
        """
        place = self._place(member, epoch)
        if place is None or member.incarnation in self._evicted:
            return False
        del self._places[member.rank]
        self._connected.pop(member.rank, None)
        self._lost.pop(member.rank, None)
        return place.lost_at is None

    def evict(self, rank: int | None, by: str) -> list[Member]:
        """Free the place of one rank, or of all, and keep its process out; return the processes, by rank.

        The next to join begins a new epoch, as after a lease that has run out.
        """
        evicted = [
            place.member
            for each, place in sorted(self._places.items())
            if rank in (None, each) and place.member.incarnation not in self._evicted
        ]
        for member in evicted:
            self._evicted[member.incarnation] = by
            self._connected.pop(member.rank, None)
        while len(self._evicted) > max(_MOST_EVICTED, len(self._places)):  # a large job can be evicted whole
            self._evicted.popitem(last=False)
        return evicted

    def _check_not_evicted(self, rank: int, incarnation: str) -> None:
        by = self._evicted.get(incarnation)
        if by is not None:
            raise EvictedError(
                f"this process was evicted as rank {rank} of the run by {by}: it saves nothing here any more; start "
                "the job anew to save again"
            )

    def catch_up(self, epoch: int) -> None:
        """Adopt the epoch that the run has reached elsewhere: if it is higher, all places are free."""
        if epoch > self.epoch:
            self.epoch = epoch
            self._clear()

    def check(self, rank: int, incarnation: str, epoch: int) -> None:
        """Raise `ConflictError` unless this process holds this place in this epoch."""
        self._check_not_evicted(rank, incarnation)
        place = self._places.get(rank)
        if epoch == self.epoch and place is not None and place.member.incarnation == incarnation:
            return
        if epoch < self.epoch:
            owner = f" of {place.member}" if place is not None else ""
            raise ConflictError(f"rank {rank} of epoch {epoch} is fenced off by epoch {self.epoch}{owner}")
        raise ConflictError(f"this process does not hold the place of rank {rank}: it must join first")

    def member(self, rank: int) -> tuple[Member, bool] | None:
        """Return the process in a rank's place, and whether its connection lives; None if there is none."""
        place = self._places.get(rank)
        return None if place is None else (place.member, rank in self._connected)

    def connected(self) -> list[int]:
        """Return the ranks whose connection lives, ascending."""
        return sorted(self._connected)

    def lost(self, now: float) -> dict[int, tuple[str, float]]:
        """Return the ranks whose lease has run out: the process, and for how many seconds its connection is gone."""
        return {
            rank: (str(place.member), now - place.lost_at)
            for rank, place in self._lost.items()
            if place.lost_at is not None and not self._holds(place, now)
        }

    def _holds(self, place: _Place, now: float) -> bool:
        if place.member.incarnation in self._evicted:
            return False
        return place.lost_at is None or now - place.lost_at < self.lease_s

    def _occupied(self, member: Member, holder: _Place, now: float) -> ConflictError:
        error = ConflictError(
            "the run is in use: another job holds it, and two must not save into one run",
            expected=f"{holder.member}, which is connected or was until just now",
            actual=str(member),
        )
        error.holder = str(holder.member)
        error.free_in_s = None if holder.lost_at is None else max(0.0, holder.lost_at + self.lease_s - now)
        return error

    def _place(self, member: Member, epoch: int) -> _Place | None:
        place = self._places.get(member.rank)
        if epoch != self.epoch or place is None or place.member.incarnation != member.incarnation:
            return None
        return place


def _check_agreed(member: Member, options: RunOptions, other: _Place | None) -> None:
    """Refuse options that differ from those of another rank: which of them counted would be chance."""
    if other is None:
        return
    for field_ in (each for each in fields(options) if each.compare):
        mine, theirs = getattr(options, field_.name), getattr(other.options, field_.name)
        if mine != theirs:
            # A member whose connection is lost may belong to a job that has ended: the end of its lease decides.
            kind = InvalidRequestError if other.lost_at is None else ConflictError
            raise kind(
                f"{member} was given another {field_.name} than {other.member}: "
                "start all ranks of a run with the same options",
                expected=repr(theirs),
                actual=repr(mine),
            )
