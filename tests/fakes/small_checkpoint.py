"""Checkpoints small enough to write thousands of, and a checker that trusts nothing but bytes.

A checkpoint of step `s` in `m` shards has one tensor per shard, ``w0`` … , of three float32 that follow from the save's
`seed`, and a scalar ``seed``, so that whoever reads it back knows what every other byte must be.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from functools import lru_cache

from ckptd.format.crc32c import crc32c
from ckptd.format.entry import Entry
from ckptd.format.index import Index, encode_index

FLOAT = 1


def shard_bytes(seed: int, shard: int) -> bytes:
    """Return what a shard holds: its tensor, and in the first shard the seed behind it."""
    values = struct.pack("<3f", seed, shard, seed * 1000 + shard)
    return values + struct.pack("<f", seed) if shard == 0 else values


@lru_cache(maxsize=4096)
def index_bytes(seed: int, num_shards: int) -> bytes:
    """Return the index over the shards of `shard_bytes`."""
    entries = {}
    for shard in range(num_shards):
        data = shard_bytes(seed, shard)[:12]
        entries[f"w{shard}".encode()] = Entry(FLOAT, (3,), shard, 0, 12, crc32c(data))
    scalar = struct.pack("<f", seed)
    entries[b"seed"] = Entry(FLOAT, (), 0, 12, 4, crc32c(scalar))
    return encode_index(num_shards, [(key, entries[key]) for key in sorted(entries)])


def seed_of(files: Mapping[str, bytes], prefix: str) -> int:
    """Return the seed of a checkpoint in `files` (path → bytes), after checking every byte of it by assertions."""
    assert prefix + ".index" in files, f"{prefix} has no index"
    encoded = files[prefix + ".index"]
    shards = []
    num_shards = _index(encoded).num_shards
    for shard in range(num_shards):
        path = f"{prefix}.data-{shard:05d}-of-{num_shards:05d}"
        assert path in files, f"{path} is missing"
        shards.append(files[path])
    return _seed_in(prefix, encoded, tuple(shards))


@lru_cache(maxsize=4096)
def _index(encoded: bytes) -> Index:
    return Index.decode(encoded, "the index")


@lru_cache(maxsize=4096)
def _seed_in(prefix: str, encoded: bytes, contents: tuple[bytes, ...]) -> int:
    """Return the seed behind these bytes: sweeps look at the same ones thousands of times."""
    index, shards = _index(encoded), list(contents)
    (seed,) = struct.unpack("<f", shards[0][12:16])
    assert shards == [shard_bytes(int(seed), shard) for shard in range(index.num_shards)], f"{prefix}: wrong bytes"
    assert sorted(index.names()) == sorted(["seed", *(f"w{shard}" for shard in range(index.num_shards))])
    for name in index.names():
        [piece] = index.tensor(name).pieces
        data = shards[piece.shard_id][piece.offset : piece.offset + piece.size]
        assert crc32c(data) == piece.crc32c, f"{prefix}: checksum of {name}"
    return int(seed)


def latest_in(files: Mapping[str, bytes], directory: str) -> str | None:
    """Return the path of the prefix that the state file names, read with a regular expression of our own."""
    state = files.get(f"{directory}/checkpoint")
    if state is None:
        return None
    paths = re.findall(rb'^model_checkpoint_path: "([^"\\]+)"$', state, re.MULTILINE)
    assert len(paths) == 1, f"a state file without one latest checkpoint: {state!r}"
    return f"{directory}/{paths[0].decode()}"


def listed_in(files: Mapping[str, bytes], directory: str) -> list[str]:
    """Return the paths of all prefixes that the state file lists."""
    state = files.get(f"{directory}/checkpoint", b"")
    paths = re.findall(rb'^all_model_checkpoint_paths: "([^"\\]+)"$', state, re.MULTILINE)
    return [f"{directory}/{path.decode()}" for path in paths]
