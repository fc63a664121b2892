"""A transport's connection to a daemon: the seat that it holds there, and how calls are made and repeated.

Every call may be repeated, and lost answers are requested again, never guessed. Channels and threads are made with the
first call and not before, so that a program may create its `Checkpointer`, fork, and use it in the child; after the
first call forking is refused, because gRPC does not survive it.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

import grpc

from ckptd.client.daemon.host_memory import is_wanted
from ckptd.client.daemon.join_call import JoinCall
from ckptd.client.daemon.remote_objects import objects_for
from ckptd.client.daemon.seats import SEATS, Seat
from ckptd.client.deadline import Backoff, Deadline
from ckptd.client.saving.sharing import SharedHold
from ckptd.engine.identity import Member, RunOptions
from ckptd.errors import CkptdError, ConflictError, InvalidRequestError, UnavailableError
from ckptd.storage.base import Objects
from ckptd.wire import addresses, status, versions
from ckptd.wire.credentials import NO_CREDENTIALS, Credentials
from ckptd.wire.v1 import common_pb2

T = TypeVar("T")


class Connection:
    """One transport's hold on its process's seat at a daemon, about one run, as one rank. Any thread may use it.

    Attributes:
        address: the daemon's.
        run: the run that all calls are about.
        member: this process and its rank; a forked child is another.
        options: the run's.
        timeout_s: the bound of each call and its repetitions.
        hold: on the seat; None before the first call.
        objects: what the bytes of checkpoints are read from; None until the daemon has told its root.
    """

    def __init__(
        self,
        address: str,
        run: str,
        member: Member,
        options: RunOptions,
        *,
        timeout_s: float,
        credentials: Credentials = NO_CREDENTIALS,
    ) -> None:
        """Connect to nothing yet."""
        self.address = addresses.parse(address)
        self.run = run
        self.member = member
        self.options = options
        self.timeout_s = timeout_s
        self.hold: SharedHold[Seat] | None = None
        self.objects: Objects | None = None
        self._credentials = credentials
        self._shares_memory = is_wanted()
        self._lock = threading.Lock()
        self._closed = threading.Event()

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed.is_set()

    @property
    def is_inherited(self) -> bool:
        """Whether it is the parent's, and this process a forked child, which must not touch it."""
        return self.hold is not None and self.hold.is_inherited

    @property
    def if_member(self) -> JoinCall | None:
        """The membership of the run, None unless this process has joined and the daemon has ever answered."""
        hold = self.hold
        if hold is None or hold.is_inherited or not hold.common.contact.is_made:
            return None
        return hold.common.if_member

    def seat(self) -> Seat:
        """Return this process's seat at the daemon."""
        with self._lock:
            if self._closed.is_set():
                raise InvalidRequestError("the Checkpointer was closed")
            if self.hold is not None:
                if self.hold.is_inherited:
                    raise ConflictError(
                        "this Checkpointer was used before the process forked, and gRPC does not survive that: "
                        "make a new one in the child"
                    )
                return self.hold.common
            if self.member.pid != os.getpid():  # made before a fork: every child is a member of its own
                self.member = replace(self.member, incarnation=versions.new_incarnation(), pid=os.getpid())
            key = (str(self.address), self.run, self.member.rank, self.member.world_size, self._credentials)
            make = partial(
                Seat,
                self.address,
                self.run,
                self.member,
                credentials=self._credentials,
                shares_memory=self._shares_memory,
            )
            self.hold = SEATS.hold(key, make)
            return self.hold.common

    def joined(self) -> tuple[Seat, JoinCall]:
        """Return the seat, and the membership of the run that belongs to it; it may still be waited for."""
        seat = self.seat()
        assert self.hold is not None  # made by `seat`
        self.hold.join(self.run, self.options, self.timeout_s)
        return seat, seat.membership(self.options)

    def retry(self, call: Callable[[Seat, float], T]) -> T:
        """Make a short call, again while the daemon is away, within `timeout_s`."""
        contact = self.seat().contact
        deadline, backoff = contact.bounded(Deadline(self.timeout_s)), Backoff()
        while True:
            try:
                return self.call(lambda seat: call(seat, deadline.remaining_s))
            except UnavailableError as error:
                if error.is_answer:
                    raise
                self.pause(error, deadline, backoff)

    def call(self, call: Callable[[Seat], T]) -> T:
        """Make a call once; raise the error that it ends with as ours."""
        seat = self.seat()
        contact = seat.contact
        try:
            contact.check()
            answer = call(seat)
        except grpc.RpcError as error:
            failure = status.from_wire(error, address=str(self.address))
            contact.failed(failure, of_call=True)
            raise failure from None
        except CkptdError as failure:
            contact.failed(failure)
            raise
        contact.made()
        return answer

    def pause(self, error: CkptdError, deadline: Deadline, backoff: Backoff) -> None:
        """Wait before the next attempt; raise the error when there is no time for one."""
        pause_s = backoff.next_s(deadline)
        if deadline.remaining_s <= pause_s or self._closed.wait(pause_s):
            assert self.hold is not None  # something was called
            raise self.hold.common.contact.given_up(error, deadline) from None

    def learn_root(self, root: str, root_id: str, arena: common_pb2.ArenaAddress) -> None:
        """Take note of where the daemon's objects and its memory are."""
        seat = self.seat()
        seat.arenas.learn(arena)
        if self.objects is None:
            self.objects = objects_for(seat.read, str(self.address), seat.peer, root, root_id, self.timeout_s)

    def close(self) -> None:
        """Refuse further calls and end waits; `release` releases the seat. May be repeated."""
        self._closed.set()

    def mark_dropped(self) -> None:
        """See `Droppable`."""
        if self.hold is not None:
            self.hold.is_dropped = True

    def release(self, *, is_dropped: bool = True) -> None:
        """See `Droppable`."""
        hold = self.hold
        if hold is not None:
            hold.release(is_dropped=is_dropped)


def this_member(rank: int, world_size: int) -> Member:
    """Describe this process as rank `rank`; each call begins a new incarnation."""
    return Member(rank, world_size, versions.new_incarnation(), socket.gethostname(), os.getpid())
