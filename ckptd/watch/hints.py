"""When to check again. Never what changed: only the state file decides that.

So an extra hint costs one check, and a lost hint costs the time until the next regular check, not a checkpoint.
"""

from __future__ import annotations

from typing import Protocol

from ckptd.storage.base import Durability, Store
from ckptd.storage.capabilities import local_path
from ckptd.storage.local.mounts import mount_of
from ckptd.watch.directory import DirectoryHints
from ckptd.watch.polling import PollingHints

POLL_S = 1.0
"""How often to check a directory that sends no events."""

_MEMORY_POLL_S = 0.1  # nothing else can be slowed down by it


class Hints(Protocol):
    """Tells one watcher when to check. `close` may come from any thread, the rest belongs to the watcher."""

    def arm(self) -> None:
        """Be ready to notice every change from now on. Called before each check, so that no change falls in between."""

    def wait(self, timeout_s: float | None) -> None:
        """Return when a check may be worthwhile, when closed, and after `timeout_s` at the latest."""

    def close(self) -> None:
        """End a wait under way and every later one; free everything. Harmless when repeated."""


def hints_for(store: Store, directory: str, poll_s: float | None = None) -> Hints:
    """Return the hints that fit `directory`: the kernel's events or, where there are none, regular checks.

    `poll_s` selects regular checks, so far apart.
    """
    path = local_path(store, directory)
    if poll_s is None and path is not None:
        mount = mount_of(path)
        if mount is None or not mount.is_network:
            return DirectoryHints(path)
    if poll_s is None:
        poll_s = _MEMORY_POLL_S if store.durability is Durability.MEMORY else POLL_S
    return PollingHints(poll_s)
