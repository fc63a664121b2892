"""What a status says about the store: from memory if the store does not answer at once, with a remark about that."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from ckptd.engine.catalog.root import ID_KEY
from ckptd.engine.wording import describe_seconds
from ckptd.errors import CkptdError, UnavailableError
from ckptd.service.pools import Pools, settled_within
from ckptd.storage.base import Store
from ckptd.storage.capabilities import DiskStore

PATIENCE_S = 1.0
"""How long a status waits for the store."""


@dataclass(frozen=True, slots=True)
class Facts:
    """`free_bytes` is None where that has no meaning; `write_mode` is empty where there is no disk."""

    free_bytes: int | None = None
    write_mode: str = ""


class StoreFacts:
    """Reads facts from the store, one request at a time. Belongs to one event loop."""

    def __init__(self, store: Store, pools: Pools, *, now: Callable[[], float] = time.monotonic) -> None:
        """Ask nothing yet."""
        self._store = store
        self._pools = pools
        self._now = now
        self._known = Facts()
        self._pending: Future[Facts] | None = None
        self._silent_since: float | None = None

    async def look(self) -> tuple[Facts, str]:
        """Return what the store says, or has said last; and, if it does not answer, a sentence about that."""
        if self._pending is None:
            self._pending = self._pools.start_look(_look, self._store)
        if self._silent_since is None:
            self._silent_since = self._now()
        done = self._pending
        if not await settled_within(done, PATIENCE_S):
            return self._known, self._silence()
        if self._pending is done:  # another caller may have waited for the same
            self._pending = None
        error = None if done.cancelled() else done.exception()
        if isinstance(error, UnavailableError):
            return self._known, f"{self._silence()}: {error}"
        self._silent_since = None
        if not done.cancelled() and error is None:
            self._known = done.result()
        return self._known, ""

    def _silence(self) -> str:
        assert self._silent_since is not None
        since = describe_seconds(self._now() - self._silent_since)
        return f"{self._store.url} hangs: it has not answered for {since}"


def _look(store: Store) -> Facts:
    try:
        free_bytes = store.free_bytes()
    except CkptdError:
        free_bytes = None
    if not isinstance(store, DiskStore):
        try:
            store.stat(ID_KEY)  # a bucket has no free space that would have to be found out
        except UnavailableError:
            raise
        except CkptdError:
            pass  # it has answered
        return Facts(free_bytes)
    try:
        return Facts(free_bytes, str(store.write_mode().value))
    except CkptdError:  # a full disk, say: that is when a status is wanted
        return Facts(free_bytes)
