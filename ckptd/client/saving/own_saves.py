"""The saves that this process has begun and that are not over, by their destination.

A question about what a job has begun is answered when that has ended: after `save(2)` the latest is 2, whether the same
`Checkpointer` is used, another one, or a plain function that takes a path.
"""

from __future__ import annotations

import os
import threading

from ckptd.client.deadline import Deadline
from ckptd.client.saving.completion import Completion
from ckptd.errors import UnavailableError
from ckptd.format.names import step_of
from ckptd.storage.base import Store
from ckptd.storage.capabilities import local_path
from ckptd.storage.locations import split_prefix

_PATIENCE_S = 600.0  # a save has a deadline of its own


class _OwnSaves:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.by_place: dict[str, list[Completion]] = {}


_own = _OwnSaves()


def _forget() -> None:
    global _own
    _own = _OwnSaves()


os.register_at_fork(after_in_child=_forget)


def add(place: str, pending: Completion) -> None:
    """Add a save that has begun; saves are added in the order in which they begin."""
    with _own.lock:
        for each in list(_own.by_place):
            rest = _left(_own.by_place.pop(each))
            if rest:
                _own.by_place[each] = rest
        _own.by_place.setdefault(place, []).append(pending)


def of(place: str) -> list[Completion]:
    """Return those that go to a place and are not over: that have not ended, or whose retention may not be over."""
    with _own.lock:
        return _left(_own.by_place.get(place, []))


def place_of(store: Store, key: str) -> str:
    """Return what names a directory of a store here, however its path is written."""
    path = local_path(store, key)
    if path is not None:
        return os.path.realpath(path)
    return store.location(key) if key else store.url


def directory_of(store: Store, key: str) -> str:
    """Return what names the directory of an object here."""
    return place_of(store, key.rpartition("/")[0])


def await_beside(store: Store, key: str, step: int | None = None) -> None:
    """Wait until what this process saves into the directory of an object has ended, well or badly; None is any step.

    Raises:
        UnavailableError: a save has not ended in time; it goes on.
    """
    if not _own.by_place:
        return
    deadline = Deadline(_PATIENCE_S)
    for one in of(directory_of(store, key)):
        if one.is_of(step, None) and not one.wait(deadline.remaining_s):
            raise UnavailableError(f"{one} has not ended within {deadline.timeout_s:g} s; it goes on")


def await_prefix(prefix: str) -> None:
    """Wait until what this process saves under a checkpoint's prefix has ended; raises as `await_beside`."""
    await_beside(*split_prefix(prefix), step_of(prefix))


def _left(saves: list[Completion]) -> list[Completion]:
    left = [one for one in saves if not one.is_settled]
    ended = [one for one in left if one.done()]
    # What the last one deletes includes what those before it do.
    return [one for one in left if one not in ended[:-1]]
