"""What a writer that borrows has to do, whatever store it is of."""

from __future__ import annotations

import random

import numpy as np
import pytest

from ckptd.errors import ConflictError, CorruptionError, NotFoundError
from ckptd.format.crc32c import crc32c
from ckptd.storage.base import BorrowingWriter, Store

PART_BYTES = 16 << 20


def lend(writer: BorrowingWriter, offset: int, data: memoryview) -> None:
    writer.borrow(offset, data, crc32c(data))


def random_bytes(size: int) -> np.ndarray:
    return np.random.default_rng(size).integers(0, 256, size, np.uint8)


class BorrowingContract:
    """Subclasses bring a fixture `store`, whose writers borrow."""

    def create(self, store: Store, size: int) -> BorrowingWriter:
        writer = store.create("lent", size)
        assert isinstance(writer, BorrowingWriter)
        return writer

    @pytest.mark.parametrize("size", [1, 5000, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES + 4097])
    def test_what_is_lent_in_pieces_in_any_order_is_what_is_got(self, store: Store, size: int) -> None:
        data = memoryview(random_bytes(size))
        begins = list(range(0, size, (size // 7) or 1))  # some reach from one part into the next
        random.Random(1).shuffle(begins)
        writer = self.create(store, size)
        for begin in begins:
            lend(writer, begin, data[begin : begin + ((size // 7) or 1)])
        writer.finish()
        assert store.get("lent") == data

    @pytest.mark.parametrize("size", [40_000, PART_BYTES + 40_000])
    def test_lent_and_copied_bytes_and_gaps_make_one_object(self, store: Store, size: int) -> None:
        data, expected = random_bytes(size), np.zeros(size, np.uint8)
        writer = self.create(store, size)
        for number, begin in enumerate(range(0, size, 10_000)):
            piece = slice(begin, begin + 10_000)
            if number % 3 == 0:
                lend(writer, begin, memoryview(data)[piece])
            elif number % 3 == 1:
                writer.write(begin, data[piece].tobytes())
            if number % 3 != 2:
                expected[piece] = data[piece]
        writer.finish()
        assert store.get("lent") == expected.tobytes()

    @pytest.mark.parametrize("size", [5000, 2 * PART_BYTES])
    @pytest.mark.parametrize("copied", [0, 100])
    def test_bytes_that_change_after_they_were_summed_never_become_part_of_an_object(
        self, store: Store, size: int, copied: int
    ) -> None:
        data = random_bytes(size)
        crc = crc32c(memoryview(data)[: size - copied])
        data[size // 2] ^= 1
        writer = self.create(store, size)
        with pytest.raises(CorruptionError):
            writer.borrow(0, memoryview(data)[: size - copied], crc)
            writer.write(size - copied, bytes(copied))
            writer.finish()
        writer.abort()
        with pytest.raises(NotFoundError):
            store.stat("lent")
        assert store.sweep_unfinished("") == []

    def test_an_object_of_many_parts_replaces_nothing_either(self, store: Store) -> None:
        store.put("lent", b"here first")
        writer = self.create(store, PART_BYTES + 1)
        lend(writer, 0, memoryview(bytes(PART_BYTES + 1)))
        with pytest.raises(ConflictError):
            writer.finish()
        assert store.get("lent") == b"here first"

    def test_lent_memory_is_let_go(self, store: Store) -> None:
        for ended in ("finish", "abort"):
            memory = bytearray(random_bytes(PART_BYTES + 100).tobytes())
            writer = self.create(store, len(memory))
            lend(writer, 0, memoryview(memory)[:5000])
            lend(writer, 5000, memoryview(memory)[5000:])
            getattr(writer, ended)()
            memory.clear()  # refused as long as somebody looks at it
            store.delete(["lent"])
