"""What lies at the paths that Lightning names, where it looks by itself: is this name taken, which is the last.

Something is there as soon as a save begins, so that what is under way counts. It is the directory of the checkpoint or,
where a daemon has that, a small file that names the daemon's run: a pointer. Lightning links, lists and removes both as
it does with files of its own. A path that is a URL has a marker instead, as object stores have no directories.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from ckptd.client.paths.latest import Path as AnyPath
from ckptd.client.paths.latest import as_text
from ckptd.errors import CorruptionError

ASIDE_SUFFIX = ".before-ckptd"
"""Ends the name of a file of Lightning's own that lay where a checkpoint of ours is saved."""

_OURS = ".ckptd"
_MARKER = f"{_OURS}/begun"
_KIND = "pointer to a checkpoint of a ckptd daemon"
_MOST_POINTER_BYTES = 16_384

_log = logging.getLogger("ckptd.torch")


def is_local(where: str) -> bool:
    """Tell whether this is a path of this host, and no URL."""
    return "://" not in where


def place_of(path: AnyPath) -> str:
    """Return the one text by which a path is known here, however it is written."""
    text = as_text(path).removeprefix("file://")
    if not is_local(text):
        return text.rstrip("/")
    return os.path.abspath(os.path.expanduser(text))  # noqa: PTH100, PTH111 (text, as it came)


def target_of(path: AnyPath) -> str:
    """Return the place that a path leads to: a link is followed."""
    where = place_of(path)
    return os.path.realpath(where) if is_local(where) and os.path.islink(where) else where  # noqa: PTH114


def is_link(where: str) -> bool:
    """Tell whether a link lies there, which is no checkpoint itself."""
    return is_local(where) and Path(where).is_symlink()


def is_there(where: str, file_system: Any) -> bool:
    """Tell whether Lightning would find something there."""
    return Path(where).exists() if is_local(where) else bool(file_system.exists(where))


def is_foreign_file(where: str) -> bool:
    """Tell whether a file lies there that is no pointer: one of Lightning's own checkpoints, say."""
    return is_local(where) and Path(where).is_file() and read_pointer(where) is None


def leads_to_the_newest(path: AnyPath) -> bool:
    """Tell whether this names no certain checkpoint, but the last one: by a link, or by Lightning's name for it."""
    where = place_of(path)
    return is_local(where) and (Path(where).is_symlink() or Path(where).name.startswith("last"))


def siblings_of(where: str) -> list[str]:
    """Return the other places beside this one whose names end alike; no links."""
    path = Path(where)
    if not is_local(where) or not path.parent.is_dir():
        return []
    return [
        str(one) for one in path.parent.iterdir() if one.suffix == path.suffix and one != path and not one.is_symlink()
    ]


def occupy(where: str, run: str | None, file_system: Any) -> None:
    """Have something at a place that is saved to now: a pointer to `run`, or a directory if that is None.

    A link makes room, and what it names stays. A file of Lightning's own is renamed, as it may be the last checkpoint
    there is until the save is durable.

    Raises:
        OSError: the place cannot be written to.
    """
    if not is_local(where):
        if run is None:
            file_system.pipe_file(f"{where}/{_MARKER}", b"")
        return
    path = Path(where)
    if path.is_symlink():
        path.unlink()
    if is_foreign_file(where):
        aside = path.with_name(path.name + ASIDE_SUFFIX)
        path.replace(aside)
        _log.warning("%s was no checkpoint of ckptd; it is %s now", where, aside)
    if run is None:
        with suppress(FileNotFoundError):
            if read_pointer(where) is not None:
                path.unlink()  # to what a daemon has; this one lies here
        path.mkdir(parents=True, exist_ok=True)
    elif not path.is_dir():  # one of direct mode stays as it is, and its path is taken as well
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name[:200]}.{uuid.uuid4().hex[:8]}")
        try:
            draft.write_text(json.dumps({"kind": _KIND, "run": run}) + "\n", encoding="utf-8")
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise


def read_pointer(where: str) -> str | None:
    """Return the daemon's run that a pointer names; None if there is none.

    Raises:
        CorruptionError: it is a pointer, and names no run.
    """
    path = Path(where)
    if not is_local(where) or not path.is_file() or path.stat().st_size > _MOST_POINTER_BYTES:
        return None
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or content.get("kind") != _KIND:
        return None
    run = content.get("run")
    if not isinstance(run, str) or not run:
        raise CorruptionError("this pointer to a daemon's checkpoint names no run", key=where)
    return run


def forget_begun(*places: str) -> bool:
    """Remove places, and those beside them, at which a save was begun and nothing whole is; tell whether any was there.

    A program that is started again after it was killed in its first save would find them for ever.
    """
    begun = [one for where in places if is_local(where) for one in (where, *siblings_of(where))]
    found = False
    for where in dict.fromkeys(begun):
        path = Path(where)
        is_begun = path.is_dir() or (path.is_file() and read_pointer(where) is not None)
        if path.is_symlink():
            continue
        if is_begun and not any(path.glob("**/*.index")):
            clear(where, None)
            found = found or not path.exists()
    for where in dict.fromkeys(begun):
        if Path(where).is_symlink() and not Path(where).exists():
            Path(where).unlink(missing_ok=True)
    return found


def clear(where: str, file_system: Any) -> None:
    """Remove what `occupy` left, and the marks of a run that holds nothing. What others put there stays."""
    if not is_local(where):
        _clear_bucket(where, file_system)
        return
    path = Path(where)
    if path.is_dir() and not path.is_symlink():
        for directory in (*path.glob("checkpoint/"), path):  # a hidden file's lies one deeper
            if not any(directory.glob("*.index")):
                shutil.rmtree(directory / _OURS, ignore_errors=True)
                with suppress(OSError):  # something else is in there
                    directory.rmdir()
    elif path.is_file() and read_pointer(where) is not None:
        path.unlink(missing_ok=True)


def _clear_bucket(where: str, file_system: Any) -> None:
    file_system.invalidate_cache(where)  # checkpoints are written by clients of their own
    keys = file_system.find(where)
    marks = [key for key in keys if f"/{_OURS}/" in key.removeprefix(file_system._strip_protocol(where))]
    if any(key.endswith(".index") for key in keys):
        marks = [key for key in marks if key.endswith(f"/{_MARKER}")]
    for key in marks:
        with suppress(FileNotFoundError):
            file_system.rm_file(key)
    file_system.invalidate_cache(where)
