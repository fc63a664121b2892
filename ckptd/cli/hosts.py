"""What `ckptd status` says of a coordinator's hosts, and of an agent's coordinator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ckptd.cli import output

_MOST_ROWS = 100  # beyond that, hosts that are heard and owe nothing are only counted
_BEATS = 5  # an agent speaks so often in a lease: one that has missed two is silent


def role(reply: Any) -> str:
    """Return what a daemon is."""
    if reply.HasField("attending"):
        return "agent"
    return "coordinator" if reply.HasField("hosts") else "whole"


def describe(reply: Any) -> dict[str, object]:
    """Return the part of a status that is about hosts, as plain data."""
    hosts, attending = reply.hosts, reply.attending
    return {
        "role": role(reply),
        "coordinator": {
            "term": hosts.term,
            "lease_s": hosts.lease_s,
            "fenced_by": hosts.fenced_by or None,
            "hosts": [_describe_host(host) for host in hosts.hosts],
        }
        if reply.HasField("hosts")
        else None,
        "agent": {
            "host": attending.host,
            "coordinator": attending.coordinator or None,
            "term": attending.term or None,
            "attends": attending.attends,
            "silent_s": None if attending.silent_s < 0 else attending.silent_s,
            "lease_s": attending.lease_s,
            "replaced": attending.replaced,
            "why_not": attending.why_not or None,
            "peers": [
                {
                    "host": peer.host,
                    "address": peer.address,
                    "sent_bytes": peer.sent_bytes,
                    "read_bytes": peer.read_bytes,
                    "bytes_per_s": peer.bytes_per_s or None,
                }
                for peer in attending.peers
            ],
        }
        if reply.HasField("attending")
        else None,
    }


def _describe_host(host: Any) -> dict[str, object]:
    return {
        "host": host.host,
        "addresses": list(host.addresses),
        "attends": not host.lost,
        "attended_s": host.attended_s,
        "silent_s": host.silent_s,
        "bytes_per_s": host.bytes_per_s or None,
        "ranks": [{"run": each.run, "ranks": list(each.ranks)} for each in host.ranks],
        "parts": [
            {
                "run": part.run,
                "step": part.step if part.HasField("step") else None,
                "save_id": part.save_id or None,
                "ranks": list(part.ranks),
                "declared": part.declared,
                "sealed": part.sealed,
                "size_bytes": part.size_bytes,
                "owed_bytes": part.owed_bytes,
            }
            for part in host.parts
        ],
    }


def tell(reply: Any) -> None:
    """Print it for a person: first what is wrong, then each host that matters."""
    if reply.HasField("attending"):
        output.tell(attending_words(reply.attending))
        _tell_peers(reply.attending.peers)
    if reply.HasField("hosts"):
        _tell_hosts(reply.hosts)


def attending_words(attending: Any) -> str:
    """Say in a sentence whether an agent has a coordinator, and what follows where it has none."""
    if attending.attends and not attending.replaced:
        heard = output.duration(attending.silent_s)
        where = f"coordinator {attending.coordinator}, term {attending.term}"
        return f"agent of {attending.host}; {where}, heard {heard} ago"
    return f"WARNING: {unattended_words(attending)}"


def unattended_words(attending: Any) -> str:
    """Say why an agent takes no new saves."""
    where = attending.coordinator or "the root names none yet"
    if attending.replaced:
        return (
            f"another agent of {attending.host} has attended since: this one does nothing any more. "
            "End it; if it is on another host, give it a name of its own"
        )
    if attending.silent_s < 0:
        found = f"it was never heard ({where})"
    else:
        lease = output.duration(attending.lease_s)
        found = f"{where} was not heard for {output.duration(attending.silent_s)} (its lease is {lease})"
    if attending.why_not:
        found += f": {attending.why_not}"
    return f"the agent of {attending.host} has no coordinator: {found}. New saves wait; restores go on"


def _tell_peers(peers: Any) -> None:
    if peers:
        rows = [
            (
                each.host,
                each.address,
                output.size(each.sent_bytes),
                output.size(each.read_bytes),
                f"{output.size(int(each.bytes_per_s))}/s" if each.bytes_per_s else "–",
            )
            for each in peers
        ]
        output.table("Agents of other hosts", ("host", "address", "sent", "read", "rate"), rows)


def _tell_hosts(status: Any) -> None:
    hosts = status.hosts
    lost = sum(host.lost for host in hosts)
    silent = sum(_is_silent(host, status.lease_s) and not host.lost for host in hosts)
    also = "".join(f", {number} {what}" for number, what in ((silent, "silent"), (lost, "gone")) if number)
    output.tell(f"coordinator of term {status.term}; agents: {len(hosts) - lost - silent} attend{also}")
    if status.fenced_by:
        output.tell(
            f"WARNING: the root has another coordinator ({status.fenced_by}): this one publishes nothing any more"
        )
    shown = [host for host in hosts if len(hosts) <= _MOST_ROWS or list(words(host, status.lease_s))]
    if shown:
        output.table("Hosts", ("host", "agent", "ranks", "rate", "owes", "addresses"), [_row(each) for each in shown])
    if len(shown) < len(hosts):
        output.tell(f"{len(hosts) - len(shown)} more hosts are heard and owe nothing")
    for host in hosts:
        if told := "; ".join(words(host, status.lease_s)):
            output.tell(f"agent on {host.host}: {told}")


def _row(host: Any) -> tuple[object, ...]:
    owed = sum(part.owed_bytes for part in host.parts)
    return (
        host.host,
        f"gone {output.duration(host.silent_s)}" if host.lost else f"heard {output.duration(host.silent_s)} ago",
        ", ".join(f"{each.run}: {_ranges(each.ranks)}" for each in host.ranks) or "–",
        f"{output.size(int(host.bytes_per_s))}/s" if host.bytes_per_s else "–",
        output.size(owed) if owed else "–",
        ", ".join(host.addresses) or "–",
    )


def words(host: Any, lease_s: float) -> Iterator[str]:
    """Yield what is awaited from a host, and whether it is heard; nothing where all is well."""
    silent, lease = output.duration(host.silent_s), output.duration(lease_s)
    if host.lost:
        yield f"gone for {silent} (its lease ended at {lease})"
    elif _is_silent(host, lease_s):
        yield f"silent for {silent} (its lease ends at {lease})"
    for part in host.parts:
        step = f"step {part.step}" if part.HasField("step") else "a save"
        ranks = f"rank{'s' if len(part.ranks) != 1 else ''} {_ranges(part.ranks)}"
        verb = ("has", "owes") if len(part.ranks) == 1 else ("have", "owe")
        if not part.declared:
            yield f"{ranks} {verb[0]} not declared {step} of {part.run}"
        elif part.owed_bytes:
            yield f"{ranks} {verb[1]} {output.size(part.owed_bytes)} of {step} of {part.run}"


def _is_silent(host: Any, lease_s: float) -> bool:
    return bool(host.silent_s > 2 * lease_s / _BEATS)


def _ranges(ranks: Any) -> str:
    from ckptd.engine.wording import describe_ranks

    return describe_ranks(ranks).partition(" ")[2]
