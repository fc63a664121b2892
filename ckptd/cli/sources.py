"""Open what a user names: a checkpoint's prefix, a safetensors file, an npz file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain

import numpy as np

from ckptd.cli import memory, places, served
from ckptd.cli.places import Named
from ckptd.cli.served import ByDaemon
from ckptd.engine.catalog.presence import has_object
from ckptd.engine.offline import ownership
from ckptd.errors import ConflictError, InvalidRequestError, NotFoundError
from ckptd.format.names import INDEX_SUFFIX, index_key, parse_shard_key
from ckptd.interchange import npz, safetensors
from ckptd.interchange.bundle import BundleSource
from ckptd.interchange.exporting import wrong_suffix
from ckptd.interchange.npz import NpzSource
from ckptd.interchange.safetensors import SafetensorsSource
from ckptd.interchange.source import Array, TensorSource
from ckptd.near import nearest
from ckptd.storage.base import Store

FileSource = SafetensorsSource | NpzSource

_FILES: dict[str, type[FileSource]] = {safetensors.SUFFIX: SafetensorsSource, npz.SUFFIX: NpzSource}
_OTHERS = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".npy", ".h5", ".keras")


def is_file(named: Named) -> bool:
    """Tell whether a path looks like a safetensors or npz file, and is not the prefix of a checkpoint."""
    key = named.key
    return key is not None and key.endswith(tuple(_FILES)) and not has_object(named.store, index_key(key))


def source(text: str, daemon: ByDaemon) -> TensorSource:
    """Open a checkpoint or a file; `NotFoundError` says what may have been meant."""
    named = served.look(text, daemon)
    if is_file(named):
        return file(named)
    return BundleSource(*places.bundle(named))


def file(named: Named) -> FileSource:
    """Open a safetensors or npz file.

    Raises:
        InvalidRequestError: when its name says that it is something else.
        NotFoundError: when there is none, naming one that is there.
        CorruptionError: when it is damaged.
    """
    text, store, key = named.text, named.store, named.key
    if key is None:
        raise InvalidRequestError(f"{text!r} names a directory; pass a file")
    opener = next((opener for suffix, opener in _FILES.items() if key.endswith(suffix)), None)
    if opener is None:
        if key.endswith(_OTHERS):
            raise InvalidRequestError(
                f"{text!r} can be read by its own framework only: save it as .safetensors or .npz"
            )
        if has_object(store, index_key(key.removesuffix(INDEX_SUFFIX))):
            raise InvalidRequestError(f"{text!r} is a checkpoint already; `ckptd cp` copies it")
        raise wrong_suffix(text)
    if not has_object(store, key):
        names = [stat.key for stat in store.list("", deep=False) if stat.key.endswith(tuple(_FILES))]
        near = nearest(key, names)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise NotFoundError(f"there is no file {text!r}{hint}")
    return opener(store, key)


def check_names(source: FileSource, names: Iterable[str]) -> None:
    """Refuse names of tensors that the file does not hold, with the one that may have been meant."""
    for name in names:
        if name not in source.names():
            raise places.no_tensor(name, source.location, source.names())


def read(source: FileSource, name: str) -> Array:
    """Read one whole tensor of a file.

    Raises:
        InvalidRequestError: when it is of a dtype that we do not have, or does not fit into memory.
    """
    facts, parts = source.facts(name), source.stream(name)
    source.check(name)
    memory.check_fits(name, source.size_bytes(name), "`ckptd show --stats` reads it in parts")
    first = next(parts, None)  # which refuses a dtype that ckptd does not have
    assert facts.dtype is not None
    whole = np.empty(facts.num_elements, facts.dtype.array)
    at = 0
    for part in () if first is None else chain([first], parts):
        whole[at : at + len(part)] = part
        at += len(part)
    return whole.reshape(facts.shape)


def destination(text: str, source_key: str | None = None) -> tuple[Store, str]:
    """Return where a checkpoint is to be written: the prefix `text`, or `source_key` in the directory `text`.

    Raises:
        InvalidRequestError: for the name of a checkpoint's file; and for a directory, when there is no `source_key`.
    """
    named = places.look(text)
    store, key = named.store, named.key
    if key is None:
        if source_key is None:
            wanted = f"{text.rstrip('/')}/model.ckpt-1"
            raise InvalidRequestError(f"{text!r} is a directory; pass a prefix, such as {wanted!r}")
        key = source_key
    parsed = parse_shard_key(key)
    prefix = parsed[0] if parsed is not None else key.removesuffix(INDEX_SUFFIX)
    if prefix != key:
        raise InvalidRequestError(f"{text!r} is one file of a checkpoint; pass its prefix: did you mean {prefix!r}?")
    return store, key


@contextmanager
def unowned(store: Store, wanted: bool) -> Iterator[None]:
    """Keep daemons out of a directory, and of those above it, while its state file is being changed, if it is `wanted`.

    Raises:
        ConflictError: when one is at work there: it owns every state file below its root.
    """
    if not wanted:
        yield
        return
    try:
        with ownership.roots_kept(store, "ckptd --publish"):
            yield
    except ConflictError as error:
        if error.actual is not None:
            error.add_note("it owns the state files there; leave --publish out")
        raise
