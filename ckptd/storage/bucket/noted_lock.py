"""A lock of a bucket: a note that others see until it is released."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType


class NotedLock:
    """A lock that is held; see `ckptd.storage.base.Lock`.

    Attributes:
        note_key: where its note is in the bucket.
        taken_at: when the note was written, by the bucket's clock.
        taken_from: the lines of the holders that it was taken over from.
    """

    def __init__(self, unlock: Callable[[str], None], note_key: str) -> None:
        """`unlock` deletes the note of a key; it is called once."""
        self.note_key = note_key
        self.taken_at: float | None = None
        self.taken_from: tuple[str, ...] = ()
        self._unlock = unlock
        self._lock = threading.Lock()
        self._is_held = True

    def release(self) -> None:
        """Let others take it. A second call does nothing."""
        with self._lock:
            was_held, self._is_held = self._is_held, False
        if was_held:
            self._unlock(self.note_key)

    def __enter__(self) -> NotedLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
