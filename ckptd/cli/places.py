"""From what a person types to the checkpoint that is meant, with a helpful word when there is none.

A PREFIX is taken as shells complete it, ``model.ckpt-120.index`` too, and a directory stands for its latest
checkpoint. Readers follow symbolic links: a user who types a path may read through it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol, runtime_checkable

from ckptd.cli import output
from ckptd.engine.catalog import lookalikes, survey
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.reading.bundle import Bundle
from ckptd.errors import CkptdError, CorruptionError, InvalidRequestError, NotFoundError, NotPermittedError
from ckptd.format.names import INDEX_SUFFIX, index_key, parse_shard_key, step_of
from ckptd.near import nearest
from ckptd.storage.base import Store
from ckptd.storage.capabilities import NestedStore, local_path
from ckptd.storage.locations import open_store, split_prefix

_MOST_LISTED = 20_000


@dataclass(frozen=True, slots=True)
class Named:
    """What a path that a person typed names, opened and looked at once.

    Attributes:
        text: the path or URL as it was typed.
        store: of the directory; of the directory that holds it where this is no directory.
        key: of what is meant, in the store; None for a directory.
        is_there: of a directory: whether it exists, in a bucket: whether anything is below it.
    """

    text: str
    store: Store
    key: str | None
    is_there: bool = False

    @property
    def is_directory(self) -> bool:
        """Whether the path names a directory rather than a prefix."""
        return self.key is None


@runtime_checkable
class Served(Protocol):
    """What `ServedRun` has, for those that do not wait for gRPC to find out that a store is none."""

    run: str
    address: str

    def latest(self) -> Checkpoint | None:
        """Return the newest complete checkpoint."""

    def checkpoints(self) -> list[Checkpoint]:
        """Return the complete checkpoints, oldest first."""


def look(text: str) -> Named:
    """Open what `text` names, and find out whether that is a directory. Every other function here takes the answer."""
    try:
        above, key = split_prefix(text)
    except InvalidRequestError:  # a slash at its end, a bucket as a whole, or nothing that a store could be at
        store = open_store(text, confined=False)
        if (is_there := _is_there(store)) or local_path(store) is None:
            return Named(text, store, None, is_there)
        if text.endswith("/") and not Path(text).exists():
            return Named(text, store, None)
        raise
    inside = above.at(key) if isinstance(above, NestedStore) else None
    if inside is not None and _is_there(inside):
        return Named(text, inside, None, True)
    return Named(text, above, key)


def _is_there(directory: Store) -> bool:
    path = local_path(directory)
    if path is None:
        return next(iter(directory.list("")), None) is not None
    try:
        return Path(path).is_dir()
    except PermissionError:  # below a directory of another user; a daemon of that user may read it
        return False


def directory(text: str) -> Store:
    """Open the directory that `text` names; `NotFoundError` if there is none."""
    store = open_store(text, confined=False)
    check_directory(store, text)
    return store


def check_directory(store: Store, text: str | None = None) -> None:
    """Raise `NotFoundError` if there is no such directory; `text` is how a person named it."""
    if not _is_there(store):
        raise _no_directory(store.url if text is None else text, store)


def _no_directory(text: str, store: Store) -> CkptdError:
    path = local_path(store)
    if path is None:
        return NotFoundError(f"there is nothing below {text!r}")
    try:
        if Path(path).exists():
            return InvalidRequestError("this is a file; pass a directory", key=text)
    except PermissionError:
        return NotPermittedError("another user's directory on the way to it is closed to this user", key=text)
    return NotFoundError(f"there is no directory {text!r}{_near_name(Path(path))}")


def checkpoint(named: Named) -> tuple[Store, str]:
    """Return the store and the key of the one checkpoint that is meant, which has an index.

    Raises:
        NotFoundError: when there is none, naming what is there instead.
    """
    text, store, key = named.text, named.store, named.key
    if key is None:
        if not named.is_there:
            raise _no_directory(text, store)
        latest = store.latest() if isinstance(store, Served) else survey.latest_checkpoint(store, "")
        if latest is None:
            raise NotFoundError(f"there is no checkpoint in {text!r}{below(store)}")
        key = latest.prefix.rpartition("/")[2]
        output.note(f"the latest in {text} is {key}")
        return store, key
    parsed = parse_shard_key(key)
    if parsed is not None:
        key = parsed[0]
    key = key.removesuffix(INDEX_SUFFIX)
    if isinstance(store, Served):  # it was found in its list: to read something of it would keep it from being deleted
        return store, key
    try:
        store.stat(index_key(key))
    except NotFoundError as e:
        raise NotFoundError(f"there is no checkpoint {key!r} in {store.url}{_instead(store, key)}") from e
    return store, key


def bundle(named: Named) -> tuple[Store, Bundle]:
    """Open the one checkpoint that is meant for reading; return its store too."""
    store, key = checkpoint(named)
    return store, Bundle.open(store, key)


def check_names(bundle: Bundle, names: Iterable[str]) -> None:
    """Refuse names of tensors that the checkpoint does not hold, with the one that may have been meant."""
    for name in names:
        if name not in bundle.index:
            raise no_tensor(name, bundle.location, bundle.names())


def no_tensor(name: str, location: str, names: Sequence[str]) -> NotFoundError:
    """Return the error that says that there is no such tensor among `names`, and which one may be meant."""
    near = nearest(name, names)
    hint = f"; did you mean {near[0]!r}?" if near else f"; `ckptd show {location}` lists them"
    return NotFoundError(f"there is no tensor {name!r} in {location}{hint}")


def keys(store: Store) -> list[str]:
    """Return the keys of all checkpoints directly in a directory, by step and name; damaged ones are among them."""
    listed: list[str | None] = []
    with suppress(CorruptionError):  # the checkpoints exist nevertheless
        listed = survey.listed_in(store, "")
    stats = lookalikes.indices(store.list("", deep=False), listed)
    found = [stat.key.removesuffix(INDEX_SUFFIX) for stat in stats]
    return sorted(found, key=_by_step)


def below(store: Store) -> str:
    """Say in which directories below there are checkpoints: runs are directories of their own."""
    found = {
        stat.key.rpartition("/")[0]
        for stat in islice(store.list(""), _MOST_LISTED)
        if stat.key.endswith(INDEX_SUFFIX) and "/" in stat.key and not lookalikes.is_left_beside(stat.key)
    }
    if not found:
        return ""
    more = "" if len(found) <= 3 else f" and {len(found) - 3} more"
    return f"; there are some in {', '.join(store.location(name) for name in sorted(found)[:3])}{more}"


def _instead(store: Store, key: str) -> str:
    """Say which checkpoint of that directory may have been meant: a name like it, and the newest."""
    names = keys(store)
    if not names:
        return below(store)
    newest = names[-1]
    near = [name for name in nearest(key, names, cutoff=0.85) if name != newest]
    likely = f"did you mean {near[0]!r}? " if near else ""
    return f"; {likely}the newest here is {newest!r}"


def _by_step(key: str) -> tuple[bool, int, str]:
    step = step_of(key)
    return step is not None, step or 0, key


def _near_name(path: Path) -> str:
    """Say what in the parent directory has nearly this name."""
    try:
        names = [entry.name for entry in islice(path.parent.iterdir(), _MOST_LISTED) if entry.is_dir()]
    except OSError:
        return ""
    near = nearest(path.name, names)
    return f"; did you mean {str(path.parent / near[0])!r}?" if near else ""
