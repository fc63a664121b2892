"""A process's seat at a daemon: one per run and rank, with its connection, its lease and its memory.

The connection is made for the first `Checkpointer` that makes a call, the lease is taken for the first that saves;
see `sharing`. All of them are one member to the daemon, and memory is lent to the rank once.
"""

from __future__ import annotations

import threading
from functools import partial

from ckptd.client.daemon.contact import FirstContact
from ckptd.client.daemon.host_memory import HostMemory
from ckptd.client.daemon.join_call import JoinCall
from ckptd.client.daemon.routes import Routes
from ckptd.client.saving.sharing import Commons
from ckptd.engine.identity import Member, RunOptions
from ckptd.wire import versions
from ckptd.wire.addresses import Address
from ckptd.wire.channels import open_channel
from ckptd.wire.credentials import Credentials
from ckptd.wire.methods import ADMIN, READ, SAVE, WATCH, Stub


class Seat:
    """See the module. Any thread may use it.

    Attributes:
        member: this process, as the daemon knows it.
        peer: the same, as it is told with each call.
        contact: what is known of the daemon until it answers.
        arenas: the memory that it lends.
        routes: the routes by which bytes are sent.
        line: the queue of lanes, whose bytes are sent one after the other.
    """

    def __init__(
        self,
        address: Address,
        run: str,
        member: Member,
        *,
        credentials: Credentials,
        shares_memory: bool,
    ) -> None:
        """Prepare the connection; gRPC connects with the first call."""
        self.member = member
        self.peer = versions.this_peer(member.incarnation)
        connect = partial(
            open_channel,
            token=credentials.token,
            ca=credentials.ca,
            client_certificate=credentials.client_certificate,
        )
        self._channel = connect(address)
        self.contact = FirstContact(address, credentials)
        self.contact.over(self._channel)
        self.save, self.read = Stub(self._channel, SAVE), Stub(self._channel, READ)
        self.admin, self.watch = Stub(self._channel, ADMIN), Stub(self._channel, WATCH)
        self.routes = Routes(self.save, address, connect)
        self.line = threading.Semaphore()
        self._lend = partial(HostMemory, address, run, self.peer, is_wanted=shares_memory)
        self.arenas = self._lend()
        self._address = str(address)
        self._run = run
        self._lock = threading.Lock()
        self._membership: JoinCall | None = None
        self._is_closed = False

    @property
    def is_spent(self) -> bool:
        """See `Common`: fenced off, or refused for good."""
        membership = self._membership
        return membership is not None and membership.is_refused

    @property
    def if_member(self) -> JoinCall | None:
        """The membership, None before a process joined."""
        return self._membership

    def membership(self, options: RunOptions) -> JoinCall:
        """Return the membership; the first caller sets the options, and all others must agree."""
        with self._lock:
            if self._membership is None:
                self._membership = JoinCall(
                    self.save, self._address, self._run, self.member, options, self.peer, self.contact
                )
                if self._is_closed:
                    self._membership.close()
            return self._membership

    def leave(self) -> None:
        """See `Common`."""
        with self._lock:
            membership, self._membership = self._membership, None
            arenas, self.arenas = self.arenas, self._lend()  # they are lent to the membership
        arenas.close()
        if membership is not None:
            membership.close()

    def close(self, *, is_dropped: bool = False) -> None:
        """See `Common`. Whatever reads keeps the channel open, if it was dropped: gRPC closes it in the end."""
        self.contact.close()
        with self._lock:
            self._is_closed = True
            membership = self._membership
        self.arenas.close()
        if membership is not None:
            membership.close()
        if not is_dropped:
            self.routes.close()
            self._channel.close()


SEATS: Commons[Seat] = Commons()
"""The seats of this process."""
