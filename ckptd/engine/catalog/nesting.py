"""Runs are beside each other, never one in another's directory: there, a run could be named like a file of the other.

``team/job/checkpoint`` is a directory where the run ``team/job`` has its state file. So a new run is refused inside of
another and around another, whichever comes first, and also when they were found from different roots. Runs that are
like that already, as earlier releases allowed, stay what they are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from ckptd.engine.catalog.records import DIRECTORY
from ckptd.engine.refusals import NestedRunError
from ckptd.errors import ConflictError, NotFoundError, NotPermittedError
from ckptd.storage.base import Store
from ckptd.storage.capabilities import local_path
from ckptd.storage.keys import join
from ckptd.storage.locations import open_store

EPOCH_NAME = f"{DIRECTORY}/epoch"
"""Where a run notes its epoch, below its directory: what every run has from its first member on."""


def check_apart(store: Store, run: str) -> None:
    """Refuse a new run that would be in the directory of another, or have another in its own.

    Raises:
        NestedRunError: naming both.
    """
    if is_run(store, run):
        return
    above = run
    while above:
        above = above.rpartition("/")[0]
        if is_run(store, above):
            raise _inside(store, run, store.location(above) if above else store.url, above)
    for outer in stores_above(store):
        if is_run(outer, ""):
            raise _inside(store, run, outer.url)
    for stat in store.list(run):
        if stat.key.endswith("/" + EPOCH_NAME):
            inner = stat.key.removesuffix("/" + EPOCH_NAME)
            if inner == run:
                return  # another of its processes has joined it since: then it is one
            error = NestedRunError(
                f"{store.location(run)} cannot be a run: run {store.location(inner)} is inside it; choose a name "
                "beside that one"
            )
            error.other = inner
            raise error


def stores_above(store: Store) -> Iterator[Store]:
    """Yield the directories above the root of a store, as stores, the nearest first."""
    root = local_path(store)
    if root is not None:
        path = os.path.realpath(root)
        while path != "/":
            path = os.path.dirname(path)  # noqa: PTH120 (a Path would not survive every byte of a name)
            yield open_store(path, confined=False)
    elif not store.has_locks:
        scheme, _, path = store.url.partition("://")
        while "/" in path:
            path = path.rpartition("/")[0]
            yield open_store(f"{scheme}://{path}")


def is_run(store: Store, directory: str) -> bool:
    """Say whether a directory is a run: one that has had a member."""
    try:
        store.stat(join(directory, EPOCH_NAME))
    except (
        NotFoundError,
        NotPermittedError,
        ConflictError,
    ):  # a file, or what we may not look at, is no run
        return False
    return True


def _inside(store: Store, run: str, outer: str, name: str | None = None) -> NestedRunError:
    error = NestedRunError(
        f"{store.location(run)} cannot be a run: it is inside the run {outer}, whose files could get its name; "
        "choose a name beside that one"
    )
    error.other = name
    return error
