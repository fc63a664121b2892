"""Where state is saved to and loaded from: a `Checkpointer`, a run that a daemon holds, or a directory.

A path means a run. With ``CKPTD_ADDRESS`` in the environment it is a run of that daemon; without it, the directory
itself, in direct mode. A `Checkpointer` that was created for a path is kept until the program ends, because its shared
memory makes the next save fast.
"""

from __future__ import annotations

import atexit
import inspect
import os
import threading
from typing import Any

import torch.distributed

from ckptd.client.checkpointer import Checkpointer
from ckptd.client.options import check_step
from ckptd.client.paths.environment import ADDRESS_VARIABLE, given_address
from ckptd.client.paths.latest import as_text, is_absolute
from ckptd.client.paths.run_place import RunPlace
from ckptd.client.restoring.reader import CheckpointReader, load_checkpoint
from ckptd.errors import InvalidRequestError

Place = str | os.PathLike[str] | Checkpointer
"""Where `save` and `load` find checkpoints."""

_lock = threading.Lock()
_kept: dict[tuple[Any, ...], tuple[Checkpointer, dict[str, Any]]] = {}


def membership() -> dict[str, int]:
    """Return this process's rank and world size in ``torch.distributed``; nothing if that is not used."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return {}
    return {"rank": torch.distributed.get_rank(), "world_size": torch.distributed.get_world_size()}


def address_and_run(path: str | os.PathLike[str], address: str | None = None) -> tuple[str, str]:
    """Return address and run of a `Checkpointer` for a path.

    Args:
        path: a run below the daemon's root, or a directory, or the URL of one.
        address: the daemon's; None means the environment's, and an empty one direct mode.

    Raises:
        InvalidRequestError: the path names no run.
    """
    daemon = given_address(address)
    if daemon and is_absolute(as_text(path)):
        raise InvalidRequestError(
            f"with a daemon ({ADDRESS_VARIABLE}), give the run's path below the daemon's root, not an absolute path",
            actual=as_text(path),
        )
    place = RunPlace.of(path, daemon)
    return place.address, place.run


def checkpointer_at(where: Place, options: dict[str, Any]) -> Checkpointer:
    """Return `where` if it is a `Checkpointer`; otherwise the one for this path, the same one each time.

    Raises:
        InvalidRequestError: options together with a `Checkpointer`, or other options than before.
    """
    if isinstance(where, Checkpointer):
        if options:
            raise InvalidRequestError("options belong to the Checkpointer that is given", actual=sorted(options))
        return where
    _check_options(options)
    address, run = address_and_run(where)
    key = (os.getpid(), address, run)
    with _lock:
        if key not in _kept:
            _kept[key] = Checkpointer(address, run, **(membership() | options)), options
        kept, before = _kept[key]
    if options != before:
        raise InvalidRequestError(f"run {run!r} is open with other options", expected=before, actual=options)
    here = {"rank": kept.rank, "world_size": kept.world_size}
    now = here | membership() | {name: options[name] for name in here if name in options}
    if now != here:  # the process group was created or changed since it was opened
        raise InvalidRequestError(
            f"run {run!r} is open as another rank: call close_all() first", expected=here, actual=now
        )
    return kept


def open_checkpoint(where: Place, step: int | None, options: dict[str, Any]) -> CheckpointReader:
    """Open the checkpoint of `step`, or the latest: of a `Checkpointer`, a daemon's run, a directory, or a prefix.

    Raises:
        NotFoundError: there is none.
        InvalidRequestError: the step is invalid, or there is no such option.
    """
    step = None if step is None else check_step(step)
    if isinstance(where, Checkpointer):
        return checkpointer_at(where, options).reader(step)
    if given_address(None) and not is_absolute(as_text(where)):
        return checkpointer_at(where, options).reader(step)
    _check_options(options)
    if step is None:
        return load_checkpoint(where)  # a prefix, too
    address, run = address_and_run(where, "")
    # Reading needs no other ranks and does not get in the way of a trainer.
    with Checkpointer(address, run, rank=0, world_size=1, **_naming(options)) as reading:
        return reading.reader(step)


def close_at(where: Place, options: dict[str, Any]) -> None:
    """Close the `Checkpointer` that was created for a path, as `close_all` does; one that is given stays open."""
    if isinstance(where, Checkpointer):
        return
    checkpointer = checkpointer_at(where, options)
    with _lock:
        del _kept[next(key for key, (one, _) in _kept.items() if one is checkpointer)]
    checkpointer.close()


def close_all() -> None:
    """Wait for the saves of every `Checkpointer` created for a path, and leave their runs. Also done at exit.

    Raises:
        CkptdError: the error of a save, if it was not raised yet.
    """
    with _lock:
        mine = [key for key in _kept if key[0] == os.getpid()]
        kept = [_kept.pop(key)[0] for key in mine]
    for one in kept:
        one.close()


_OPTIONS = [*inspect.signature(Checkpointer).parameters][2:]
_OF_TORCH = {
    "map_location": "device= creates new tensors there",
    "weights_only": "nothing is ever unpickled",
    "mmap": "with into= each rank reads only the parts that it holds, directly into its tensors",
}
"""Arguments of ``torch.load``, and what to do instead."""


def _check_options(options: dict[str, Any]) -> None:
    for name in options:
        if name not in _OPTIONS:
            way = _OF_TORCH.get(name) or f"a Checkpointer has {', '.join(_OPTIONS)}"
            raise InvalidRequestError(f"there is no option {name!r}: {way}")


def _naming(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in ("name", "latest_filename", "pad_step_number") if name in options}


atexit.register(close_all)
