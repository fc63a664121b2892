"""A stored piece, read from its first byte to its last and compared with its checksum on the way."""

from __future__ import annotations

from collections.abc import Iterator

from ckptd.engine.reading.bundle import Bundle
from ckptd.engine.reading.mismatch import mismatch
from ckptd.format import crc32c, strings
from ckptd.format.stored import Piece, StoredTensor
from ckptd.storage.base import Objects


def checked_blocks(
    objects: Objects, bundle: Bundle, tensor: StoredTensor, piece: Piece, buffer: memoryview
) -> Iterator[tuple[int, memoryview]]:
    """Yield a piece's bytes in order, and where in the piece they begin; the last `next` compares their checksum.

    They are in `buffer`, which holds whole elements: each block is valid until the next. A piece of strings or variants
    is one block in memory of its own, as its checksum is known only once all of it is decoded.

    Raises:
        CorruptionError: when the bytes do not have the checksum that the index says. All of them were yielded then.
    """
    key, crc = bundle.shard_key(piece.shard_id), 0
    if tensor.dtype.width:
        for at in range(0, piece.size, max(1, len(buffer))):
            block = buffer[: min(len(buffer), piece.size - at)]
            objects.read_into(key, piece.offset + at, block)
            crc = crc32c.extend(crc, block)
            yield at, block
    else:
        block = memoryview(bytearray(piece.size))
        objects.read_into(key, piece.offset, block)
        crc = strings.stored_crc32c(block, tensor.dtype, piece.box.num_elements, bundle.index.big_endian)
        yield 0, block
    if crc != piece.crc32c:
        raise mismatch(tensor, piece, crc, objects.location(key))
