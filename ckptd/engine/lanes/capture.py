"""What a rank captures into memory that the engine sees too: no byte is sent, the shards are written from there.

The engine follows the capture while it goes on. Once it is sealed, the rank is needed no longer: it may die, and the
save still commits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ckptd.engine.layout import Column

LONG_BYTES = 64 << 20
"""A rank that captures less has done so within milliseconds: nothing needs to wait for it."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Bytes of a shard that lie in captured memory as they lie in the shard."""

    shard_key: str
    shard_offset: int
    memory_offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Holding:
    """What captured memory holds, and of which save: another one may use the same prefix and the same keys later.

    Attributes:
        save_id: of the save, which is published.
        index_crc32c: checksum of its whole index object: a reader knows by it whether this memory is the right one.
        stretches: where its bytes lie.
    """

    save_id: str
    index_crc32c: int
    stretches: Sequence[Stretch]


class Capture(Protocol):
    """One rank's part of one save, in memory. Any thread may call it.

    Attributes:
        memory: where it is captured.
        offsets: per part of the rank's manifest, where its stored form begins in there.
        is_staged: training can reach it, as it has produced bytes there, and may change it by mistake at any time. Its
            sums are there as soon as it is sealed.
    """

    memory: NDArray[np.uint8]
    offsets: Column
    is_staged: bool

    @property
    def available(self) -> int:
        """How many bytes of the memory, from its start, are in place."""

    @property
    def is_sealed(self) -> bool:
        """Whether all of it is in place for good, so that the rank may go."""

    def wait_sealed(self, timeout_s: float) -> bool:
        """Wait until it is sealed, or `timeout_s` has passed, or it has failed; return whether it is sealed."""

    def wait_summed(self, timeout_s: float) -> bool:
        """Wait until `sums` has an answer, or `timeout_s` has passed, or it has failed; return whether it has one."""

    def sums(self) -> NDArray[np.uint32] | None:
        """Return the checksums that its rank took of it, None while they are still to come.

        One per part and, of strings, two: of the lengths, and of what follows their checksum. Empty when they never
        come, because the rank died after it had sealed: then nobody can have changed the bytes since.
        """

    def check(self) -> None:
        """Raise what ended the capture before it was sealed."""

    def saved(self, holding: Holding) -> None:
        """Hear that a checkpoint was saved, and which of its bytes this memory holds."""

    def ended(self) -> None:
        """Hear that the save is over: the memory is looked at no longer."""
