"""What a host is told to write of a save that is planned, and what to pass on to other hosts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ckptd.engine.hosts.messages import Go, HostDeclaration, Passing
from ckptd.engine.identity import SaveRef
from ckptd.engine.lanes.host_share import part_of, passed_on
from ckptd.engine.layout import Assignment, Layout
from ckptd.engine.saves.from_agents import FromAgents
from ckptd.format.names import shard_key


def order(agents: FromAgents, said: HostDeclaration, host: str, known_layout: bytes, first: Assignment) -> Go:
    """Return what a host is told about those of its ranks that have declared together; the shard is all of its ranks'.

    `first` is the plan of any of them. What to write is left out if that host knows this layout. Raises what ended the
    save, if that is over.
    """
    save = first.save
    layout = agents.layout_of(save)
    shard, ranks = layout.shard_of(host), agents.guests_of(save)
    go = Go(
        agents.term,
        said.request_id,
        save.save_id,
        first.num_shards,
        shard,
        "",
        0,
        b"",
        prefix_key=first.key,
        attempt=save.attempt,
        passing=tuple(_passing(agents, layout, said.ranks if ranks else (), host, first)),
    )
    if shard is None:
        return go
    return replace(
        go,
        key=shard_key(first.key, shard, first.num_shards),
        size_bytes=layout.shard_sizes[shard],
        layout_digest=layout.digest,
        limits=agents.limits(),
        share=None if known_layout == layout.digest else part_of(layout, host).layout,
        guests=tuple(
            ranks[rank] for rank in layout.senders_of.get(shard, ()) if rank in ranks and ranks[rank].host != host
        ),
    )


def _passing(
    agents: FromAgents, layout: Layout, ours: Sequence[int], host: str, first: Assignment
) -> Iterator[Passing]:
    for shard, share in passed_on(layout, ours, host):
        key, size = shard_key(first.key, shard, first.num_shards), layout.shard_sizes[shard]
        there = layout.host_of(shard)
        yield Passing(shard, key, there, agents.incarnation(there), agents.addresses(there), size, share)


def renewed(agents: FromAgents, go: Go) -> Go | None:
    """Return what a host has to be told anew, as agents that it passes bytes to have begun anew; None if none has.

    What they had been sent, before their shards were sealed, is lost.
    """
    passing = tuple(
        replace(each, by=agents.incarnation(each.host), addresses=agents.addresses(each.host)) for each in go.passing
    )
    return None if passing == go.passing else replace(go, passing=passing)


def passed_on_alone(agents: FromAgents, save: SaveRef, go: Go) -> Go | None:
    """Return what is left to a host whose own shard is sealed: to pass on what may be missing; None if nothing may.

    That is what belongs into shards that are not sealed: a later life of the host's agent cannot know what has arrived.
    """
    sealed = agents.sealed_hosts(save)
    passing = tuple(each for each in go.passing if each.host not in sealed)
    if not passing:
        return None
    return replace(go, shard=None, key="", size_bytes=0, share=None, guests=(), passing=passing)
