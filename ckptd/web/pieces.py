"""Where the bytes of a tensor are: which slice of it in which shard, from which byte on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ckptd.format.names import shard_key
from ckptd.format.slices import TensorSlice
from ckptd.format.stored import StoredTensor
from ckptd.web import wording
from ckptd.web.shelf import Shelved

MOST_PIECES = 200
"""Of one page, or one document."""


@dataclass(frozen=True, slots=True)
class ShownPiece:
    """One stored piece; `slice` is "" for a tensor stored whole, `crc32c` eight hexadecimal digits."""

    slice: str
    shard: int
    file: str
    offset: int
    size_bytes: int
    crc32c: str


def pieces(shelved: Shelved, stored: StoredTensor, num_shards: int) -> Sequence[ShownPiece]:
    """Return the first `MOST_PIECES` of them, in the order in which the index lists them."""
    return [
        ShownPiece(
            slice=str(TensorSlice.of_box(piece.box)) if stored.is_sliced else "",
            shard=piece.shard_id,
            file=wording.last_part(shard_key(shelved.key, piece.shard_id, num_shards)),
            offset=piece.offset,
            size_bytes=piece.size,
            crc32c=f"{piece.crc32c:08x}",
        )
        for piece in stored.pieces[:MOST_PIECES]
    ]
