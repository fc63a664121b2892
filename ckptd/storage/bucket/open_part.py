"""One part of an upload that is not complete yet: some bytes copied into a buffer, some borrowed where they are."""

from __future__ import annotations

from collections.abc import Sequence

from ckptd.errors import CorruptionError
from ckptd.format import crc32c
from ckptd.storage.bucket.upload_memory import Parts


def check_lent(offset: int, actual: int, expected: int) -> None:
    """Raise `CorruptionError` if bytes no longer have the checksum with which they were lent."""
    if actual != expected:
        raise CorruptionError(
            "these bytes were changed while they were sent",
            offset=offset,
            expected=f"crc32c {expected:08x}",
            actual=f"crc32c {actual:08x}",
        )


class OpenPart:
    """The bytes so far of a part that `Parts` has admitted. Its writer guards it with a lock.

    A part that was borrowed whole is sent from there, with the checksum that its bytes had when they were lent. Of any
    other part a copy is sent; a buffer for it is taken when it is first needed.
    """

    def __init__(self, size_bytes: int) -> None:
        """Begin empty."""
        self.size_bytes = size_bytes
        self._filled: list[tuple[int, int]] = []  # disjoint, in ascending order
        self._borrowed: dict[int, tuple[memoryview, int]] = {}  # by where they begin, with their checksums
        self._buffer: bytearray | None = None

    @property
    def is_complete(self) -> bool:
        """Whether every byte is there."""
        return self._filled == [(0, self.size_bytes)]

    def buffer_of(self, parts: Parts) -> bytearray:
        """Return the memory to copy bytes into; `note` then says which are there."""
        if self._buffer is None:
            self._buffer = parts.buffer(self.size_bytes)
        return self._buffer

    def note(self, begin: int, end: int) -> None:
        """Note bytes that are there."""
        merged = []
        for other in self._filled:
            if other[1] < begin or other[0] > end:
                merged.append(other)
            else:
                begin, end = min(begin, other[0]), max(end, other[1])
        self._filled = sorted([*merged, (begin, end)])

    def borrow(self, begin: int, data: memoryview, crc: int) -> None:
        """Note bytes that are there, and are read where they are until `dismiss`."""
        self._borrowed[begin] = data, crc
        self.note(begin, begin + len(data))

    def content(self, parts: Parts) -> tuple[Sequence[memoryview], int | None]:
        """Return the bytes of the part, in order, and the checksum that they must have if they are borrowed.

        Raises:
            CorruptionError: borrowed bytes have changed.
        """
        pieces = [self._borrowed[begin] for begin in sorted(self._borrowed)]
        if self._buffer is not None or sum(len(data) for data, _ in pieces) != self.size_bytes:
            return [self.whole(parts)], None
        whole = crc32c.joined((crc for _, crc in pieces), (len(data) for data, _ in pieces))
        return [data for data, _ in pieces], whole

    def whole(self, parts: Parts) -> memoryview:
        """Return a copy of the part in one buffer; bytes that were never written are zeros.

        Raises:
            CorruptionError: borrowed bytes have changed.
        """
        buffer, at = self.buffer_of(parts), 0
        for begin, end in [*self._filled, (self.size_bytes, self.size_bytes)]:
            buffer[at:begin] = bytes(begin - at)  # left by the buffer's former user
            at = end
        for begin, (data, crc) in self._borrowed.items():
            copy = memoryview(buffer)[begin : begin + len(data)]
            copy[:] = data
            check_lent(begin, crc32c.crc32c(copy), crc)
        return memoryview(buffer)

    def dismiss(self, parts: Parts) -> None:
        """Release all memory: the part is sent, or not needed any more."""
        self._borrowed = {}
        parts.dismiss(self.size_bytes, self._buffer)
        self._buffer = None
