"""A block of an object in memory, as the messages in which it travels: what is passed on is neither copied nor encoded.

Memory that is copied is first requested from the kernel, which clears it: that costs more than the copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ckptd.wire.chunks import CHUNK_BYTES, data_of, encode_blocks


class KeptBlock:
    """See the module. Its length is that of the bytes. Nothing changes them.

    Attributes:
        checked: which of its bytes were compared with which checksum; see `ckptd.agent.checked_parts`.
    """

    __slots__ = ("_parts", "_size", "checked")

    def __init__(self, parts: Sequence[memoryview]) -> None:
        """Take the data of messages, at least one; copied, unless they are cut as we cut them."""
        self._size = sum(map(len, parts))
        if any(len(part) != CHUNK_BYTES for part in parts[:-1]) or len(parts[-1]) > CHUNK_BYTES:
            whole = memoryview(b"".join(parts))
            parts = [whole[at : at + CHUNK_BYTES] for at in range(0, self._size, CHUNK_BYTES)]
        self._parts = tuple(parts)
        self.checked: set[tuple[int, int, int]] = set()

    @classmethod
    def filled(cls, size: int, fill: Callable[[list[memoryview]], None]) -> KeptBlock:
        """Make a block of `size` bytes, at least one, which `fill` puts into their places, one after another."""
        return cls([data_of(message) for message in encode_blocks(size, fill)])

    def __len__(self) -> int:
        """Return how many bytes it has."""
        return self._size

    def views(self, begin: int, end: int) -> Iterator[memoryview]:
        """Yield the bytes from `begin` to `end`, in order; a part that is wanted whole is the data of its message."""
        while begin < min(end, self._size):
            number, within = divmod(begin, CHUNK_BYTES)
            part = self._parts[number][within : within + end - begin]
            yield part
            begin += len(part)

    def tobytes(self) -> bytes:
        """Return a copy of all of it."""
        return b"".join(self._parts)
