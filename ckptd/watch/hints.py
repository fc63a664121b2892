"""When to look again. Never what changed: only the look at the state file decides that.

So a hint too many costs one look, and a hint that was lost costs the time until the next regular one, not a checkpoint.
"""

from __future__ import annotations

from typing import Protocol

from ckptd.storage.base import Durability, Store
from ckptd.storage.capabilities import local_path
from ckptd.storage.local.mounts import mount_of
from ckptd.watch.directory import DirectoryHints
from ckptd.watch.polling import PollingHints

POLL_S = 1.0
"""How often a directory is looked at that no events come from."""

_MEMORY_POLL_S = 0.1  # nothing else can be slowed down by it


class Hints(Protocol):
    """Tells one watcher when to look. `close` may come from any thread, the rest belongs to the watcher."""

    def arm(self) -> None:
        """Be ready to notice every change from now on. Called before each look, so that none falls in between."""

    def wait(self, timeout_s: float | None) -> None:
        """Return when it may be worth looking, when closed, and at latest after `timeout_s`."""

    def close(self) -> None:
        """End a wait under way and every later one; free everything. Harmless when repeated."""


def hints_for(store: Store, directory: str, poll_s: float | None = None) -> Hints:
    """Return what fits where `directory` is: the kernel's events, or, where those tell nothing, regular looks.

    `poll_s` sets regular looks, so far apart.
    """
    path = local_path(store, directory)
    if poll_s is None and path is not None:
        mount = mount_of(path)
        if mount is None or not mount.is_network:
            return DirectoryHints(path)
    if poll_s is None:
        poll_s = _MEMORY_POLL_S if store.durability is Durability.MEMORY else POLL_S
    return PollingHints(poll_s)
