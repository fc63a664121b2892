"""What counts as news to a watcher of a run."""

from __future__ import annotations

from collections.abc import Sequence

from ckptd.engine.checkpoint import Checkpoint


class News:
    """Remembers what was accepted last, so that watching only ever goes forward. For one thread at a time.

    A source that is called again after a break or pause names the newest that exists. That may be the one that was
    reported last, or, when that was deleted, an older one: neither is news. Nor is one that a newer one has overtaken.
    """

    def __init__(self) -> None:
        self._last: Checkpoint | None = None
        self._listed: frozenset[str] = frozenset()  # with the last

    @property
    def last(self) -> Checkpoint | None:
        """What was accepted last, None before the first."""
        return self._last

    @property
    def last_save_id(self) -> str:
        """The save that was accepted last; empty before the first, and when ckptd did not write it."""
        return "" if self._last is None else self._last.save_id

    def accept(self, checkpoint: Checkpoint, *, is_next: bool = False, listed: Sequence[str] = ()) -> bool:
        """Say whether `checkpoint` is newer than what is known; it is known then.

        No clock decides that where anything else can: clocks are set back, and steps are trained again.

        Args:
            checkpoint: the newest there is.
            is_next: it was published after the last, as its source says.
            listed: base names of the checkpoints that the state file lists with it, oldest first.
        """
        last = self._last
        if last is not None:
            if is_same(checkpoint, last):
                return False
            # Reported once more because the last is damaged, it takes its place.
            if not is_next and not checkpoint.rolled_back and self._is_older(checkpoint, last, listed):
                return False
        self._last, self._listed = checkpoint, frozenset(listed)
        return True

    def _is_older(self, checkpoint: Checkpoint, last: Checkpoint, listed: Sequence[str]) -> bool:
        if _base(last) in listed[:-1]:
            return False  # it was put behind the last
        # A state file may list no more than the newest; one with more lists what was there.
        if len(self._listed) > 1 and listed and _base(checkpoint) not in self._listed:
            return False
        return _is_behind(checkpoint, last)


def is_same(one: Checkpoint, other: Checkpoint) -> bool:
    """Say whether both describe one save; a step that was saved again is another."""
    # A save of ours is known by its id alone: its time is the index's until its record says that it is published.
    if one.save_id and other.save_id:
        return one.save_id == other.save_id
    return (one.prefix, one.saved_at) == (other.prefix, other.saved_at)


def _base(checkpoint: Checkpoint) -> str:
    return checkpoint.prefix.rpartition("/")[2]


def _is_behind(one: Checkpoint, other: Checkpoint) -> bool:
    # Clocks may be set back and steps may be trained again, but what is behind in both was there before.
    return one.saved_at < other.saved_at and (one.step or 0) <= (other.step or 0)
