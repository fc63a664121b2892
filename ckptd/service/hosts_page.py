"""The hosts that one `Status` answer describes: as many as a message holds, each with what is awaited from it.

A host has declared what its ranks save, or is awaited to: that is read off the saves of the runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ckptd.engine.hosts.views import AttendingView, HostsView, HostView, PartView
from ckptd.engine.saves.session import Phase
from ckptd.engine.saves.views import RunView
from ckptd.wire.v1 import admin_pb2

PAGE_BYTES = 1 << 20
"""Of the descriptions of all hosts in one answer."""

_MOST_PARTS = 100  # of one host
_MOST_PEERS = 4096  # of one agent


def fill(
    view: HostsView, runs: Sequence[RunView], after: str, *, may_see: Callable[[str], bool], sees_all: bool
) -> admin_pb2.HostsStatus:
    """Describe the hosts behind `after` in the order of their names, as many as fit.

    Args:
        view: of the coordinator.
        runs: those that the caller may read.
        after: the last host that it was told of.
        may_see: whether the caller may read a run: others of a host are left out.
        sees_all: whether it is told of hosts without such runs, too.
    """
    page = admin_pb2.HostsStatus(term=view.term, lease_s=view.lease_s, fenced_by=view.fenced_by)
    awaited = _undeclared(view, runs)
    left = PAGE_BYTES
    for host in view.hosts:
        if after and host.host <= after:
            continue
        described = _host(host, awaited, may_see)
        if not sees_all and not described.ranks and not described.parts:
            continue
        size = described.ByteSize()
        if page.hosts and size > left:
            page.next_after = page.hosts[-1].host
            return page
        page.hosts.append(described)
        left -= size
    return page


def attending(view: AttendingView) -> admin_pb2.AttendingStatus:
    """Describe what an agent knows of its coordinator."""
    return admin_pb2.AttendingStatus(
        host=view.host,
        coordinator=view.coordinator,
        term=view.term,
        attends=view.attends,
        silent_s=-1.0 if view.silent_s is None else view.silent_s,
        lease_s=view.lease_s,
        replaced=view.is_replaced,
        why_not=view.why_not,
        peers=[
            admin_pb2.PeerStatus(
                host=peer.host,
                address=peer.address,
                sent_bytes=peer.sent_bytes,
                read_bytes=peer.read_bytes,
                bytes_per_s=peer.bytes_per_s,
            )
            for peer in view.peers[:_MOST_PEERS]
        ],
    )


_Awaited = dict[str, list[tuple[int | None, set[int]]]]  # by run: steps, and the ranks that have not declared them


def _undeclared(view: HostsView, runs: Sequence[RunView]) -> _Awaited:
    declared: dict[tuple[str, int | None], set[int]] = {}
    for host in view.hosts:
        for part in host.parts:
            declared.setdefault((part.run, part.step), set()).update(part.ranks)
    awaited: _Awaited = {}
    for run in runs:
        for save in run.saves:
            if save.phase is Phase.DECLARING:
                ranks = set(save.needed_ranks) - declared.get((run.run, save.save.step), set())
                awaited.setdefault(run.run, []).append((save.save.step, ranks))
    return awaited


def _host(view: HostView, awaited: _Awaited, may_see: Callable[[str], bool]) -> admin_pb2.HostStatus:
    ranks = [(run, ranks) for run, ranks in view.ranks if may_see(run)]
    parts = [part for part in view.parts if may_see(part.run)]
    parts += [
        PartView(run, step, "", tuple(sorted(missing)), has_declared=False)
        for run, here in ranks
        for step, of_all in awaited.get(run, ())
        if (missing := of_all.intersection(here))
    ]
    return admin_pb2.HostStatus(
        host=view.host,
        addresses=view.addresses,
        attended_s=view.attended_s,
        silent_s=view.silent_s,
        lost=view.is_lost,
        bytes_per_s=view.bytes_per_s or 0.0,
        ranks=[admin_pb2.HostRanks(run=run, ranks=here) for run, here in ranks],
        parts=_parts(parts[:_MOST_PARTS]),
    )


def _parts(parts: Sequence[PartView]) -> Iterator[admin_pb2.HostPart]:
    for part in parts:
        yield admin_pb2.HostPart(
            run=part.run,
            step=part.step,
            save_id=part.save_id,
            ranks=part.ranks,
            declared=part.has_declared,
            sealed=part.is_sealed,
            size_bytes=part.size_bytes,
            owed_bytes=part.owed_bytes,
        )
