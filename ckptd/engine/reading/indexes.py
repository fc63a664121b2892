"""Decoding the index of a checkpoint that another program may have made: what it claims must be possible."""

from __future__ import annotations

from ckptd.errors import CorruptionError
from ckptd.format.index import Index

MOST_SHARDS = 1 << 17
"""Twice as many as a save can have ranks. Readers look for every shard: with two thousand millions none would end."""


def decode(data: bytes, key: str) -> Index:
    """Decode the index at `key`.

    Raises:
        CorruptionError: when it is damaged, or tells of more shards than any checkpoint has.
    """
    index = Index.decode(data, key)
    if index.num_shards > MOST_SHARDS:
        raise CorruptionError(
            "this index tells of more shards than any checkpoint has",
            key=key,
            expected=f"{MOST_SHARDS} at most",
            actual=index.num_shards,
        )
    return index
