"""What operators see of agents and coordinators: values made for `ckptd status`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PartView:
    """What one host has to do with a save under way.

    Attributes:
        run: of the save.
        step: its training step, None without one.
        save_id: "" before the save is planned.
        ranks: those of the host.
        has_declared: whether the host has said what these ranks hold.
        is_sealed: whether the host's shard is durable.
        size_bytes: of that shard; 0 before the save is planned.
        owed_bytes: what is not written of it.
    """

    run: str
    step: int | None
    save_id: str
    ranks: tuple[int, ...]
    has_declared: bool = True
    is_sealed: bool = False
    size_bytes: int = 0
    owed_bytes: int = 0


@dataclass(frozen=True, slots=True)
class HostView:
    """One host, as its coordinator knows it.

    Attributes:
        host: its stable name.
        addresses: where other agents reach its agent.
        attended_s: for how long its agent attends.
        silent_s: for how long nothing was heard from that.
        is_lost: whether that is longer than the lease.
        bytes_per_s: how fast its present shard is written, or the last one was; None while that is not known.
        ranks: those that are connected, by run.
        parts: of saves under way, oldest first.
    """

    host: str
    addresses: tuple[str, ...]
    attended_s: float
    silent_s: float
    is_lost: bool
    bytes_per_s: float | None
    ranks: tuple[tuple[str, tuple[int, ...]], ...]
    parts: tuple[PartView, ...]


@dataclass(frozen=True, slots=True)
class HostsView:
    """A coordinator and the hosts whose agents have attended, by name.

    Attributes:
        term: of this coordinator.
        lease_s: for how long an agent may be silent.
        fenced_by: the coordinator that has taken over, in words; "" while there is none.
        hosts: by name.
    """

    term: int
    lease_s: float
    fenced_by: str
    hosts: tuple[HostView, ...]


@dataclass(frozen=True, slots=True)
class PeerView:
    """What went between an agent and that of another host.

    Attributes:
        host: the other one.
        address: by which it was reached last.
        sent_bytes, read_bytes: since this agent started.
        bytes_per_s: both ways together, while anything was under way lately; 0 before the first.
    """

    host: str
    address: str
    sent_bytes: int
    read_bytes: int
    bytes_per_s: float


@dataclass(frozen=True, slots=True)
class AttendingView:
    """The agent of a host, and what it knows of its coordinator.

    Attributes:
        host: its stable name.
        coordinator: the address, "" while the root names none.
        term: the highest that was seen, 0 before that.
        attends: whether the coordinator of that term has answered, and was heard within a lease.
        silent_s: for how long nothing was heard from it; None if it never was.
        lease_s: how long each waits for the other.
        is_replaced: whether a later life of this host's agent has taken over: this one does nothing any more.
        why_not: why it does not attend, as it heard last; "" while it does, or heard nothing.
        peers: the agents that bytes went to and came from, by host.
    """

    host: str
    coordinator: str
    term: int
    attends: bool
    silent_s: float | None
    lease_s: float
    is_replaced: bool
    why_not: str = ""
    peers: tuple[PeerView, ...] = ()
