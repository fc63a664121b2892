"""Many small requests to a store at once, where each answer takes a network round trip."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from ckptd import threads
from ckptd.storage.base import Durability, Store

T = TypeVar("T")
R = TypeVar("R")

_AT_ONCE = 16


def together(store: Store, call: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Return what `call` returns for each item, in their order; the first error, in that order, is raised.

    A disk of this host answers one after the other, a bucket many at once.
    """
    every = list(items)
    if store.durability is not Durability.OBJECT_STORE or len(every) < 2:
        return [call(item) for item in every]
    return threads.each(call, every, _AT_ONCE, "ckptd-call")
