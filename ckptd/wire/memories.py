"""What hosts have in memory ⇄ the messages of `AgentService.Offer` and `AgentService.Where`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ckptd.engine.hosts.memories import MOST_SAVES, MOST_SHARDS, InMemory, Where
from ckptd.wire import convert
from ckptd.wire.v1 import agent_pb2


def saves_to_wire(saves: Iterable[InMemory]) -> list[agent_pb2.HeldSave]:
    """Return the messages for what a host has in memory."""
    return [
        agent_pb2.HeldSave(run=each.run, save=each.save, shards=_shards_to_wire(each.shards))
        for each in list(saves)[-MOST_SAVES:]
    ]


def saves_from_wire(messages: Iterable[agent_pb2.HeldSave]) -> list[InMemory]:
    """Read and check what an agent says of its host's memory."""
    return [
        InMemory(
            convert.run_from_wire(each.run), convert.request_id_from_wire(each.save), _shards_from_wire(each.shards)
        )
        for each in list(messages)[-MOST_SAVES:]
    ]


def where_to_wire(where: Where) -> agent_pb2.WhereReply:
    """Return the message for which hosts have a checkpoint in memory."""
    holders = [
        agent_pb2.Holder(host=host, shards=_shards_to_wire(shards)) for host, shards in sorted(where.holders.items())
    ]
    return agent_pb2.WhereReply(save=where.save, holders=holders)


def where_from_wire(message: agent_pb2.WhereReply) -> Where:
    """Read and check which hosts have a checkpoint in memory."""
    save = convert.request_id_from_wire(message.save) if message.save else ""
    holders = {convert.text_from_wire(each.host): _shards_from_wire(each.shards) for each in message.holders}
    return Where(save, holders if save else {})


def _shards_to_wire(shards: Mapping[int, int]) -> list[agent_pb2.HeldShard]:
    most = sorted(shards, key=lambda shard: shards[shard], reverse=True)[:MOST_SHARDS]
    return [agent_pb2.HeldShard(shard=shard, bytes=shards[shard]) for shard in sorted(most)]


def _shards_from_wire(messages: Iterable[agent_pb2.HeldShard]) -> dict[int, int]:
    return {each.shard: max(0, each.bytes) for each in list(messages)[:MOST_SHARDS]}
