"""The kernel's events from a directory, through `watchdog`.

The directory may not exist yet: then the nearest existing one above it is watched for the next part of the path. It may
be deleted and made again: then the new one is watched. Events can be lost (a full queue, a directory that was moved
away), so it is also read every few seconds.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import BaseObserver
from watchdog.observers.inotify import InotifyEmitter
from watchdog.observers.inotify_c import InotifyConstants

from ckptd.storage.keys import is_reserved

_REGULAR_LOOK_S = 2.0
POLL_S = 0.5  # without events: the host's limit of inotify instances or watches is reached
_STOP_S = 5.0
_MOST_ATTEMPTS = 20  # at a path whose parts come and go faster than they can be watched

_EVENTS: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    DirCreatedEvent,
    FileClosedEvent,
    FileDeletedEvent,
    DirDeletedEvent,
]


class DirectoryHints:
    """Gives a hint when something appears in the directory at `path` or goes. See `ckptd.watch.hints.Hints`."""

    def __init__(self, path: str, *, regular_look_s: float = _REGULAR_LOOK_S) -> None:
        self._path = Path(path).absolute()
        self._regular_look_s = regular_look_s
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._is_closed = False
        self._is_lost = threading.Event()
        self._has_events = True
        self._listening: _Listening | None = None

    def arm(self) -> None:
        """See `Hints`."""
        self._wake.clear()
        if self._is_lost.is_set():
            self._is_lost.clear()
            self._leave()
        for _ in range(_MOST_ATTEMPTS):
            target = _nearest(self._path)
            if self._listening is not None and self._listening.target == target:
                return
            self._leave()
            if not self._listen(target):
                return
        # The regular checks find directories that move so quickly.

    @property
    def is_due(self) -> bool:
        """Whether something has appeared or gone since `arm`, so that a wait returns at once."""
        return self._wake.is_set()

    def wait(self, timeout_s: float | None) -> None:
        """See `Hints`."""
        longest_s = self._regular_look_s if self._has_events else POLL_S
        self._wake.wait(longest_s if timeout_s is None else min(longest_s, timeout_s))

    def close(self) -> None:
        """See `Hints`."""
        with self._lock:
            self._is_closed = True
        self._wake.set()
        self._leave()

    def _listen(self, target: _Target) -> bool:
        """Watch what is at `target`; False when that is not possible, or no longer needed."""
        listening = _Listening(target, self._path, self._wake, self._is_lost)
        try:
            listening.start()
        except OSError:
            # No more inotify instances or watches, or no right to list the directory. Frequent checks work, too.
            listening.stop()
            self._has_events = False
            return False
        with self._lock:
            if not self._is_closed:
                self._listening, self._has_events = listening, True
                return True
        self._wake.set()
        listening.stop()
        return False

    def _leave(self) -> None:
        with self._lock:
            listening, self._listening = self._listening, None
        if listening is not None:
            listening.stop()


@dataclass(frozen=True, slots=True)
class _Target:
    """A directory, and which one it is: another may come to the same path."""

    path: Path
    device: int
    inode: int


class _Listening(FileSystemEventHandler):
    """Watches one directory, which is the wanted one or is above it."""

    def __init__(self, target: _Target, wanted: Path, wake: threading.Event, is_lost: threading.Event) -> None:
        self.target = target
        rest = wanted.relative_to(target.path).parts
        self._directory = target.path.resolve()  # watchdog watches a link itself, not its target
        self._next_part = self._directory / rest[0] if rest else None
        self._wake = wake
        self._is_lost = is_lost
        self._observer = BaseObserver(_Emitter)

    def start(self) -> None:
        self._observer.start()
        self._observer.schedule(self, str(self._directory), recursive=False, event_filter=_EVENTS)

    def stop(self) -> None:
        with contextlib.suppress(RuntimeError, OSError, KeyError):  # it is over already, or the directory is
            self._observer.stop()
            if threading.current_thread() is not self._observer:
                self._observer.join(_STOP_S)

    def dispatch(self, event: FileSystemEvent) -> None:
        """Wake the watcher if this may concern it. Called by watchdog, in a thread of its own."""
        path = Path(os.fsdecode(event.src_path))
        if isinstance(event, DirDeletedEvent) and path == self._directory:
            self._is_lost.set()  # a new directory may have the old one's inode: only the event shows it
        elif self._next_part is not None:
            if path != self._next_part:
                return
        elif is_reserved(path.name):
            return
        self._wake.set()


class _Emitter(InotifyEmitter):
    """Receives events of names that appear and go, and no others.

    watchdog would also request the first half of each rename, hold it back for half a second to pair it with the second
    half, and delay everything behind it. And each write to a shard would be an event.
    """

    def get_event_mask_from_filter(self) -> Any:
        """Return the inotify mask. Where a later watchdog does not request it, its own serves, only slower."""
        return (
            InotifyConstants.IN_CREATE
            | InotifyConstants.IN_MOVED_TO
            | InotifyConstants.IN_CLOSE_WRITE
            | InotifyConstants.IN_DELETE
            | InotifyConstants.IN_DELETE_SELF
        )


def _nearest(path: Path) -> _Target:
    """Return what is at `path`, or at the nearest existing directory above it."""
    for directory in (path, *path.parents):
        try:
            status = directory.stat()
        except OSError:
            continue
        if stat.S_ISDIR(status.st_mode):
            return _Target(directory, status.st_dev, status.st_ino)
    return _Target(Path("/"), 0, 0)
