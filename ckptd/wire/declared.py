"""What ranks of one host save ⇄ the messages by which its agent declares it."""

from __future__ import annotations

from functools import lru_cache

from ckptd.engine.hosts.messages import HostDeclaration, RankPart
from ckptd.engine.identity import Member, RunOptions
from ckptd.errors import InvalidRequestError
from ckptd.wire import convert, versions
from ckptd.wire.v1 import agent_pb2, common_pb2, save_pb2

_KNOWN_PARTS = 1 << 14  # ranks


def _part_to_wire(part: RankPart) -> agent_pb2.RankPart:
    """Return the message for what one rank said: its run and its incarnation stand in the declaration alone."""
    member = part.member
    peer = common_pb2.Peer(host=member.host, pid=member.pid, version=versions.VERSION)
    return agent_pb2.RankPart(
        join=convert.join_to_wire(peer, "", member, part.options),
        declare=convert.declaration_to_wire(part.declaration),
    )


def _part_from_wire(message: agent_pb2.RankPart) -> RankPart:
    save, join = message.declare.save, message.join
    joined = _joined if not join.options.hours_age_s else _joined.__wrapped__  # that one counts from now
    member, options = joined(join.SerializeToString(), save.run, save.incarnation)
    return RankPart(member, options, convert.declaration_from_wire(message.declare))


@lru_cache(_KNOWN_PARTS)
def _joined(join: bytes, run: str, incarnation: str) -> tuple[Member, RunOptions]:
    """Read and check as which member of its run a rank saves: each of its saves says the same."""
    message = save_pb2.JoinRequest.FromString(join)
    message.run, message.peer.incarnation = run, incarnation
    _, member, options = convert.join_from_wire(message)
    return member, options


def declaration_to_wire(said: HostDeclaration) -> agent_pb2.HostDeclaration:
    """Return the message for what ranks of one host save."""
    return agent_pb2.HostDeclaration(
        request_id=said.request_id,
        run=said.run,
        step=said.step,
        ranks=said.ranks,
        world_size=said.world_size,
        manifest_digest=said.manifest_digest,
        size_bytes=said.size_bytes,
        call=said.call,
        since_term=said.since_term,
        parts=[_part_to_wire(part) for part in said.parts],
        known_layout=said.known_layout,
    )


def declaration_from_wire(message: agent_pb2.HostDeclaration) -> HostDeclaration:
    """Read and check what ranks of one host save."""
    run = convert.run_from_wire(message.run)
    parts = tuple(_part_from_wire(each) for each in message.parts)
    if any(part.declaration.save.run != run or part.member.rank != part.declaration.save.rank for part in parts):
        raise InvalidRequestError("the ranks of a host declare the same save, each its own part", key=run)
    return HostDeclaration(
        convert.request_id_from_wire(message.request_id),
        run,
        convert.step_from_wire(message.step) if message.HasField("step") else None,
        tuple(message.ranks),
        message.world_size,
        message.manifest_digest,
        message.size_bytes,
        message.call,
        convert.term_from_wire(message.since_term),
        parts,
        message.known_layout,
    )
