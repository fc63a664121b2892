"""What the ranks of the simulated job declare: one rank a host, with one tensor, which bears its number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from ckptd.engine.hosts.messages import HostDeclaration, RankPart
from ckptd.engine.identity import Declaration, Member, RunOptions, SaveRef
from ckptd.engine.manifest import Manifest, Part
from ckptd.format.slices import Box

ROOT_ID = "root"
RUN, NAME = "r", "m"
KEPT = 3
SAVE_S = 300.0
UINT8 = 4  # TensorFlow's number for it
OPTIONS = RunOptions(name=NAME, max_to_keep=KEPT, keep_checkpoint_every_n_hours=None)


@dataclass(frozen=True)
class Join:
    """An agent wants the places of its host's ranks, as it does whenever it attends anew."""

    host: str
    member: Member


@dataclass(frozen=True)
class Joined:
    """They have them, at the coordinator of this term."""

    term: int


def member(rank: int, world_size: int) -> Member:
    """Return the process of a rank: it outlives every agent."""
    return Member(rank, world_size, f"rank {rank}", f"h{rank}", agent=f"h{rank}")


@lru_cache(maxsize=1 << 16)
def manifest(rank: int, size_bytes: int) -> Manifest:
    return Manifest.of([Part(f"h{rank}", UINT8, (size_bytes,), Box((0,), (size_bytes,)), size_bytes)])


def manifests_of(said: Iterable[HostDeclaration]) -> Iterator[Manifest]:
    """Return the manifests that these declarations name."""
    return (manifest(rank, each.size_bytes) for each in said for rank in each.ranks)


def declaration(rank: int, world_size: int, step: int, call: int, size_bytes: int) -> HostDeclaration:
    """Return what a host's rank declares; `call` counts the calls of `save` for this step."""
    host, request_id = f"h{rank}", f"h{rank}.{step}.{call}"
    ours = member(rank, world_size)
    ref = SaveRef(RUN, 0, step, rank=rank, incarnation=ours.incarnation)
    digest = manifest(rank, size_bytes).digest
    part = Declaration(ref, request_id, world_size, digest, timeout_s=SAVE_S, name=NAME, host=host, call=call + 1)
    parts = (RankPart(ours, OPTIONS, part),)
    return HostDeclaration(request_id, RUN, step, (rank,), world_size, digest, size_bytes, parts=parts)
