"""How far a host is with its shard of a save, and how fast. Pure; only operators are shown it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Progress:
    """Of one shard, since its host was told to write it.

    Attributes:
        size_bytes: of the shard.
        began_at: when its host was told to write it.
        owed_bytes: what is not durable yet, as far as is known.
        noted_at: when that was so.
    """

    size_bytes: int
    began_at: float
    owed_bytes: int
    noted_at: float

    @classmethod
    def begun(cls, size_bytes: int, now: float) -> Progress:
        """Begin with all of it owed."""
        return cls(size_bytes, now, size_bytes, now)

    def note(self, owed_bytes: int, now: float) -> None:
        """Note how much is owed now."""
        self.owed_bytes, self.noted_at = max(0, min(owed_bytes, self.size_bytes)), now

    @property
    def bytes_per_s(self) -> float | None:
        """How fast it goes, None while nothing is known of that."""
        took_s, done_bytes = self.noted_at - self.began_at, self.size_bytes - self.owed_bytes
        return done_bytes / took_s if took_s > 0 and done_bytes else None
