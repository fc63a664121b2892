"""Which checkpoints are being read through us: retention leaves them until their readers are done.

A reader does not announce when it begins and ends; it only requests ranges of objects. So recent requests count.
"""

from __future__ import annotations

import threading

from ckptd.format import names

READING_S = 30.0
"""How long after its last request a reader still counts."""


class Readers:
    """When each prefix was last read, in seconds on a forward-only clock. Safe from any thread."""

    def __init__(self) -> None:
        """Start without readers."""
        self._lock = threading.Lock()
        self._read_at: dict[str, float] = {}

    def note(self, key: str, now: float) -> None:
        """Note that the object at `key` is being read."""
        prefix = prefix_of(key)
        if prefix is not None:
            with self._lock:
                self._read_at[prefix] = now

    def in_use(self, now: float, within_s: float = READING_S) -> set[str]:
        """Return the prefixes, as keys, that are still being read: of which something was requested `within_s`."""
        with self._lock:
            self._read_at = {prefix: at for prefix, at in self._read_at.items() if now - at < READING_S}
            return {prefix for prefix, at in self._read_at.items() if now - at < within_s}

    def are_in(self, run: str, now: float) -> bool:
        """Say whether some checkpoint directly in the directory `run` is being read."""
        with self._lock:
            return any(
                now - at < READING_S and prefix.rpartition("/")[0] == run for prefix, at in self._read_at.items()
            )


def prefix_of(key: str) -> str | None:
    """Return the prefix of the checkpoint that the object belongs to; None for a state file and what is not ours."""
    shard = names.parse_shard_key(key)
    if shard is not None:
        return shard[0]
    for suffix in (names.INDEX_SUFFIX, ".meta"):
        if key.endswith(suffix):
            return key.removesuffix(suffix)
    return None
