"""What counts as news to somebody who watches a run."""

from __future__ import annotations

from ckptd.engine.checkpoint import Checkpoint


class Watcher:
    """Remembers what was told last, so that watching only ever goes forward.

    Whoever is asked again, after a break or a pause, names the newest there is. That may be the one that was told
    last, or, when that was deleted, an older one: neither is news.
    """

    def __init__(self) -> None:
        self._last: Checkpoint | None = None

    @property
    def last_save_id(self) -> str:
        """The save that was told last; empty before the first."""
        return "" if self._last is None else self._last.save_id

    def is_news(self, checkpoint: Checkpoint) -> bool:
        """Say whether `checkpoint` is newer than what was told; it counts as told then."""
        last = self._last
        if last is not None:
            if (checkpoint.save_id, checkpoint.prefix, checkpoint.saved_at) == (
                last.save_id,
                last.prefix,
                last.saved_at,
            ):
                return False
            # Clocks may be set back and steps may be trained again, but what is behind in both was there before.
            is_behind = (checkpoint.step or 0) <= (last.step or 0)
            if checkpoint.saved_at < last.saved_at and is_behind:
                return False
        self._last = checkpoint
        return True
