"""What is said of a piece whose bytes do not have the checksum that the index says."""

from __future__ import annotations

from ckptd.errors import CorruptionError
from ckptd.format.stored import Piece, StoredTensor


def mismatch(tensor: StoredTensor, piece: Piece, crc: int, key: str) -> CorruptionError:
    """Return the error of a piece whose bytes, in the data file `key`, have the checksum `crc`."""
    return CorruptionError(
        f"checksum of tensor {tensor.name!r} does not match",
        key=key,
        offset=piece.offset,
        expected=f"{piece.crc32c:#010x}",
        actual=f"{crc:#010x}",
        tensor=tensor.name,
    )
