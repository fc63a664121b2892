"""The processes that may save into a run, and their options.

When a process learns its place, its epoch is durable and its options are in force.
"""

from __future__ import annotations

import threading

from ckptd.engine.catalog import epochs
from ckptd.engine.catalog.retention import RetentionPolicy
from ckptd.engine.clock import Clock
from ckptd.engine.identity import Declaration, Member, RunOptions
from ckptd.engine.saves.membership import Membership
from ckptd.engine.saves.served_catalog import ServedCatalog
from ckptd.errors import InvalidRequestError
from ckptd.storage.base import Store


class Members:
    """See the module. The run's lock is held in each call, except of `put_in_force`, which works on the store."""

    def __init__(
        self, name: str, store: Store, stored: ServedCatalog, *, lock: threading.RLock, clock: Clock, lease_s: float
    ) -> None:
        """Start without members.

        Args:
            name: the run.
            store: where it is.
            stored: its checkpoints, which follow the options.
            lock: the run's.
            clock: the time.
            lease_s: for how long a place is kept after its connection broke.
        """
        self.options = RunOptions()
        self._name, self._store, self._stored = name, store, stored
        self._lock, self._clock = lock, clock
        self._membership = Membership(lease_s)
        self._in_force: tuple[int, RunOptions] | None = None  # what the catalog follows, durably

    @property
    def epoch(self) -> int:
        """The epoch that was given out last."""
        return self._membership.epoch

    @property
    def world_size(self) -> int:
        """How many processes the job has."""
        return self._membership.world_size

    def resume(self, epoch: int) -> None:
        """Go on from the highest epoch that the store knows."""
        self._membership.epoch = epoch

    def take_place(self, member: Member, options: RunOptions) -> int:
        """Give a process its place; return the epoch. It counts once `put_in_force` has returned."""
        before, was_empty = self._membership.epoch, self._membership.is_empty
        epoch = self._membership.join(member, self._clock.boot_s(), options)
        if was_empty or epoch != before:
            self._in_force = None
        return epoch

    def put_in_force(self, member: Member, epoch: int, options: RunOptions, policy: RetentionPolicy) -> None:
        """Make a member's epoch durable, and let the catalog follow its options; the catalog's lock is held."""
        if self._in_force == (epoch, options):
            return
        stored = self._stored
        stored.catalog.upkeep.confirm(0.0)  # an owner that has lost the run may issue no epochs
        with self._lock:
            self._membership.check(member.rank, member.incarnation, epoch)
        if epoch > stored.durable_epoch:
            # Durable before it is announced: after a restart the daemon must not issue it again.
            epochs.store(self._store, self._name, epoch)
            stored.durable_epoch = epoch
        stored.follow(options, policy)
        with self._lock:
            self.options, self._in_force = options, (epoch, options)

    @property
    def are_in_force(self) -> bool:
        """Whether the catalog follows the options of the present members."""
        return self._in_force is not None

    def check(self, rank: int, incarnation: str, epoch: int) -> None:
        """Raise `ConflictError` unless this process holds this place in this epoch."""
        self._membership.check(rank, incarnation, epoch)

    def check_declares(self, declaration: Declaration) -> None:
        """Raise unless a declaration comes from a member, and agrees with what it said when it joined."""
        ref = declaration.save
        self.check(ref.rank, ref.incarnation, ref.epoch)
        if declaration.world_size != self.world_size:
            raise InvalidRequestError(
                f"rank {ref.rank} declared another world size than it joined with",
                expected=self.world_size,
                actual=declaration.world_size,
            )
        if declaration.pad_step_number != self.options.pad_step_number:
            raise InvalidRequestError("pad_step_number belongs to the run, and this rank joined with another")

    def disconnect(self, member: Member, epoch: int, silent_s: float = 0.0) -> None:
        """Note that a member's connection broke so long ago; its lease began then."""
        self._membership.disconnect(member, epoch, self._clock.boot_s() - silent_s)

    def leave(self, member: Member, epoch: int) -> bool:
        """Take a member's place back; return whether it was connected in it."""
        return self._membership.leave(member, epoch)

    def evict(self, rank: int | None, by: str) -> list[Member]:
        """Free the place of one rank, or of all, and keep its process out; return the processes."""
        return self._membership.evict(rank, by)

    def catch_up(self, epoch: int) -> None:
        """Adopt the epoch that the run has reached with another owner: older members are fenced off."""
        self._membership.catch_up(epoch)

    def connected(self) -> list[int]:
        """Return the ranks whose connection lives, ascending."""
        return self._membership.connected()

    def lost(self) -> dict[int, tuple[str, float]]:
        """Return the ranks whose lease has run out; see `Membership.lost`."""
        return self._membership.lost(self._clock.boot_s())

    def is_free(self) -> bool:
        """Whether no place is held any more."""
        return self._membership.is_free(self._clock.boot_s())

    def agent_of(self, rank: int) -> str:
        """Return the host by whose agent a rank has its place; "" for none."""
        held = self._membership.member(rank)
        return "" if held is None else held[0].agent

    def describe(self, rank: int, doing: str) -> str:
        """Say which process has a rank's place, whether it is connected, and what it is doing."""
        held = self._membership.member(rank)
        if held is None:
            return "it has not joined the run"
        member, is_connected = held
        where = f"pid {member.pid} on {member.host}" if member.pid else "it has joined the run"
        where += f" by the agent on {member.agent}" if member.agent else ""
        return where + ("" if is_connected else ", whose connection is lost") + doing
