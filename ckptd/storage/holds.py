"""Protect objects that are being read from deletion, where a store can see its readers.

A program that reads straight from a local disk makes no call that a deletion could see. A reader holds what it reads: a
shared advisory lock on the opened file, which needs no more than the right to read, works on read-only mounts, takes no
space and ends with the process. A deletion checks for it. Neither ever waits for the other.

Without locks, as in buckets and on some file systems, readers read all the same, and programs that delete do not see
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, runtime_checkable


class Hold(Protocol):
    """An object that is being read. Ends with `close`, with its last reference, or with the process."""

    def close(self) -> None:
        """Let it be deleted; harmless when repeated."""


@runtime_checkable
class HoldingObjects(Protocol):
    """Objects that a reader can hold."""

    def hold(self, key: str) -> Hold | None:
        """Hold one object; None when it is not there, is being deleted, or holds are not possible here."""


@runtime_checkable
class HoldingStore(HoldingObjects, Protocol):
    """A store that sees which of its objects are held, in any process of this host."""

    def unread(self, keys: Sequence[str]) -> AbstractContextManager[bool]:
        """Say whether no process holds any of these objects; while the block runs, none begins to."""


def hold(objects: object, key: str) -> Hold | None:
    """Hold one object if that can be done where it is."""
    return objects.hold(key) if isinstance(objects, HoldingObjects) else None


def unread(store: object, keys: Sequence[str]) -> AbstractContextManager[bool]:
    """Say whether no process is known to read any of these objects; while the block runs, none begins to hold them."""
    return store.unread(keys) if isinstance(store, HoldingStore) else nullcontext(True)
