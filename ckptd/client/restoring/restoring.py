"""What `Checkpointer.restore` requests, checked against what is stored, and read."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptd.client.progress import RestoreBar
from ckptd.client.restoring.falling_back import RestoredSoFar, restore_newest
from ckptd.client.restoring.locating import locate
from ckptd.client.restoring.reader import CheckpointReader, check_names, did_you_mean
from ckptd.client.restoring.reporting import open_reporting
from ckptd.client.saving.transport import Located, RunCatalog
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.reading.bundle import Bundle, Wanted
from ckptd.errors import CkptdError, CorruptionError, InvalidRequestError, NotFoundError
from ckptd.format.names import meta_key
from ckptd.format.slices import Box
from ckptd.storage.base import Objects
from ckptd.storage.capabilities import beneath, read_by_many

Array = NDArray[Any]
Boxes = Mapping[str, tuple[Sequence[int], Sequence[int]]]

_MAX_ATTEMPTS = 5


def restore(
    catalog: RunCatalog,
    run: str,
    name: str,
    step: int | None,
    names: Sequence[str] | Mapping[str, str] | None,
    slices: Boxes | None,
    into: Mapping[str, Array] | None,
    *,
    restored: RestoredSoFar,
    falls_back: bool = True,
    together_s: float | None = None,
    by_many: bool = False,
    progress: RestoreBar | None = None,
) -> dict[str, Array]:
    """Read tensors of the checkpoint of a name's `step`, or of its latest; see `Checkpointer.restore`.

    A checkpoint may be deleted or replaced while it is read; then what took its place is read. `restored` is told which
    it was. `by_many` says that other processes of this host probably read the same bytes. `progress`
    draws how far it is.
    """

    reads, began_at = 0, time.monotonic()
    read_from: Objects | None = None

    def read(located: Located, is_afresh: bool = False) -> dict[str, Array]:
        nonlocal reads, read_from
        reads += 1
        read_from = _objects(catalog, located.key, by_many)
        if is_afresh:
            read_from = beneath(read_from)  # the copy in memory may be the damaged one
        return _read(read_from, located.key, names, slices, into, progress)

    try:
        if step is not None:
            arrays = _read_step(catalog, run, name, step, read, restored)
        else:
            arrays = restore_newest(catalog, run, name, read, restored, falls_back=falls_back, together_s=together_s)
        if read_from is not None:
            size_bytes = sum(array.nbytes for array in arrays.values())
            catalog.tell_restored(read_from, size_bytes, time.monotonic() - began_at)
        return arrays
    except CkptdError as error:
        # A wrong request is refused before the first byte moves, and the first read looks for every name.
        if (
            into
            and reads > (1 if isinstance(error, NotFoundError) else 0)
            and not isinstance(error, InvalidRequestError)
        ):
            error.add_note("the arrays given by `into` may be partly overwritten")
        raise


def _read_step(
    catalog: RunCatalog,
    run: str,
    name: str,
    step: int,
    read: Callable[[Located, bool], dict[str, Array]],
    restored: RestoredSoFar,
) -> dict[str, Array]:
    located, is_afresh = locate(catalog, run, name, step), False
    for _ in range(_MAX_ATTEMPTS):
        try:
            arrays = read(located, is_afresh)
            break
        except (NotFoundError, CorruptionError) as error:
            now = locate(catalog, run, name, step)
            if (now.key, now.checkpoint.save_id) != (located.key, located.checkpoint.save_id):
                located = now
            elif is_afresh or isinstance(error, NotFoundError):
                raise  # it is still the one that is meant, so the error is the checkpoint's own
            else:
                is_afresh = True  # a copy of it may have been damaged, in memory or at another host's agent
    else:
        arrays = read(located, is_afresh)
    restored.checkpoint = located.checkpoint
    return arrays


def _objects(catalog: RunCatalog, key: str, by_many: bool) -> Objects:
    objects = catalog.objects(key)
    return read_by_many(objects) if by_many else objects


def open_reader(
    catalog: RunCatalog, run: str, name: str, which: int | str | Checkpoint | None, *, by_many: bool
) -> CheckpointReader:
    """Open the checkpoint of a step or a base name, the one given, or the latest; see `Checkpointer.reader`."""
    located = locate_any(catalog, run, name, which)
    return CheckpointReader(open_reporting(catalog, located, name, _objects(catalog, located.key, by_many)))


def locate_any(catalog: RunCatalog, run: str, name: str, which: int | str | Checkpoint | None) -> Located:
    """Return the checkpoint of a step or a base name, the one given, or the latest."""
    if isinstance(which, Checkpoint):
        return _locate_prefix(catalog, which.prefix)
    if isinstance(which, str):
        return _locate_named(catalog, run, which)
    return locate(catalog, run, name, which)


def read_meta_graph(
    catalog: RunCatalog, run: str, name: str, which: int | str | Checkpoint | None, suffix: str
) -> bytes | None:
    """Read the graph description beside a checkpoint, see `locate_any`; None if there is none."""
    located = locate_any(catalog, run, name, which)
    try:
        return catalog.objects(located.key).get(meta_key(located.key, suffix))
    except NotFoundError:
        return None


def _locate_prefix(catalog: RunCatalog, prefix: str) -> Located:
    for located in catalog.checkpoints():
        if located.checkpoint.prefix == prefix:
            return located
    raise NotFoundError("this checkpoint no longer exists", key=prefix)


def _locate_named(catalog: RunCatalog, run: str, base: str) -> Located:
    found = {located.key.rpartition("/")[2]: located for located in catalog.checkpoints()}
    if base not in found:
        raise NotFoundError(f"run {run!r} has no checkpoint {base!r}{did_you_mean(base, found)}")
    return found[base]


def _read(
    objects: Objects,
    key: str,
    names: Sequence[str] | Mapping[str, str] | None,
    slices: Boxes | None,
    into: Mapping[str, Array] | None,
    progress: RestoreBar | None,
) -> dict[str, Array]:
    # Not every box is summed: only the index tells whether they are still of the checkpoint that was opened.
    bundle = Bundle.open_guarded(objects, key) if slices else Bundle.open(objects, key)
    bundle.progress = progress
    try:
        arrays = _read_bundle(bundle, names, slices, into)
        if slices:
            bundle.check_unchanged()
    finally:
        bundle.close()
        if progress is not None:
            progress.close()
    return arrays


def _read_bundle(
    bundle: Bundle,
    names: Sequence[str] | Mapping[str, str] | None,
    slices: Boxes | None,
    into: Mapping[str, Array] | None,
) -> dict[str, Array]:
    wanted_names = _wanted_names(bundle, names)
    # Looking each one up twice would take as long as all else for ten thousands of them. The index finds slices by
    # their keys, too, which are no names.
    check_names(bundle, (name for name in wanted_names.values() if not isinstance(name, str) or name[:1] in ("", "\0")))
    for what, given in (("slices", slices), ("into", into)):
        _check_known(what, given or {}, wanted_names)
    boxes = {name: _box(name, given) for name, given in (slices or {}).items()}
    arrays = {name: _array(name, given) for name, given in (into or {}).items()}
    wanted = [Wanted(stored, boxes.get(name), arrays.get(name)) for name, stored in wanted_names.items()]
    try:
        return dict(zip(wanted_names, bundle.read_many(wanted, thorough=True), strict=True))
    except NotFoundError:
        check_names(bundle, wanted_names.values())  # says what comes near
        raise


def _wanted_names(bundle: Bundle, names: Sequence[str] | Mapping[str, str] | None) -> dict[str, str]:
    """Return wanted name → stored name."""
    if names is None:
        return {name: name for name in bundle.names()}
    if isinstance(names, (str, bytes)):
        raise InvalidRequestError("names is a list of names, or a mapping of stored names to wanted ones", actual=names)
    if not isinstance(names, Mapping):
        return {name: name for name in names}
    wanted: dict[str, str] = {}
    for stored, name in names.items():
        if name in wanted:
            raise InvalidRequestError(f"two stored tensors, {wanted[name]!r} and {stored!r}, are to be named {name!r}")
        wanted[name] = stored
    return wanted


def _check_known(what: str, given: Mapping[str, Any], wanted: Mapping[str, str]) -> None:
    for name in given:
        if name not in wanted:
            raise InvalidRequestError(f"{what} names {name!r}, which is not restored{did_you_mean(name, wanted)}")


def _box(name: str, given: tuple[Sequence[int], Sequence[int]] | None) -> Box | None:
    if given is None:
        return None
    try:
        start, shape = given
        return Box(tuple(int(n) for n in start), tuple(int(n) for n in shape))
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"slices[{name!r}] is a pair (start, shape)", actual=repr(given)) from error


def _array(name: str, given: Any) -> Array | None:
    if given is not None and not isinstance(given, np.ndarray):
        raise InvalidRequestError(f"into[{name!r}] is a numpy array", actual=type(given).__name__)
    return given
