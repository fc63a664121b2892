"""What a server tells of its calls to what counts them; by itself it counts nothing."""

from __future__ import annotations

from enum import Enum
from typing import Protocol


class Blocked(Enum):
    """What a stream of a save waited for."""

    MEMORY = "memory"  # a place, or room for its chunks, that others hold
    DISK = "disk"  # the store, to take what is here
    NETWORK = "network"  # the sender's next bytes, with nothing left to write


class ServiceMeter(Protocol):
    """Is told on the event loop, several times a message, so it must be quick."""

    def call_began(self, method: str) -> None:
        """Note a call of a method, such as ``ckptd.wire.v1.SaveService/Join``."""

    def call_ended(self, method: str, status: str, seconds: float) -> None:
        """Note its end, with gRPC's word for the status, ``OK``."""

    def blocked(self, cause: Blocked, seconds: float) -> None:
        """Note how long a stream could not go on."""

    def watcher_told(self, seconds: float) -> None:
        """Note that a watcher was told of a checkpoint, so long after it was published."""

    def sent(self, size_bytes: int) -> None:
        """Note bytes of checkpoints that a reader was sent."""


class NoMeter:
    """Counts nothing."""

    def call_began(self, method: str) -> None:
        """See `ServiceMeter`."""

    def call_ended(self, method: str, status: str, seconds: float) -> None:
        """See `ServiceMeter`."""

    def blocked(self, cause: Blocked, seconds: float) -> None:
        """See `ServiceMeter`."""

    def watcher_told(self, seconds: float) -> None:
        """See `ServiceMeter`."""

    def sent(self, size_bytes: int) -> None:
        """See `ServiceMeter`."""


NO_METER = NoMeter()
