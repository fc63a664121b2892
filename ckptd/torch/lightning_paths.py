"""The files and directories at the paths of Lightning, which checks them: is a name taken, which is the last.

Something is there as soon as a save begins, so that pending saves count. It is the directory of the checkpoint or, with
a daemon, a pointer: a small file that names the daemon's run. Lightning links, lists and removes both like its own
files. A path that is a URL has a marker instead, as object stores have no directories.
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
"""The suffix of a file of Lightning that was renamed because ckptd saves a checkpoint at its path."""

_OURS = ".ckptd"
_MARKER = f"{_OURS}/begun"
_KIND = "pointer to a checkpoint of a ckptd daemon"
_MOST_POINTER_BYTES = 16_384

_log = logging.getLogger("ckptd.torch")


def is_local(where: str) -> bool:
    """Return whether this is a path of this host, not a URL."""
    return "://" not in where


def place_of(path: AnyPath) -> str:
    """Return a path in the one form that is used here."""
    text = as_text(path).removeprefix("file://")
    if not is_local(text):
        return text.rstrip("/")
    return os.path.abspath(os.path.expanduser(text))  # noqa: PTH100, PTH111 (text, as it came)


def target_of(path: AnyPath) -> str:
    """Return the place that a path leads to: a link is followed."""
    where = place_of(path)
    return os.path.realpath(where) if is_local(where) and os.path.islink(where) else where  # noqa: PTH114


def is_link(where: str) -> bool:
    """Return whether there is a link, which is not a checkpoint itself."""
    return is_local(where) and Path(where).is_symlink()


def is_there(where: str, file_system: Any) -> bool:
    """Return whether Lightning would find something there."""
    return Path(where).exists() if is_local(where) else bool(file_system.exists(where))


def is_foreign_file(where: str) -> bool:
    """Return whether there is a file that is not a pointer, such as one of Lightning's own checkpoints."""
    return is_local(where) and Path(where).is_file() and read_pointer(where) is None


def leads_to_the_newest(path: AnyPath) -> bool:
    """Return whether a path means the last checkpoint: by a link, or by Lightning's name for it."""
    where = place_of(path)
    return is_local(where) and (Path(where).is_symlink() or Path(where).name.startswith("last"))


def siblings_of(where: str) -> list[str]:
    """Return the other places beside this one with the same suffix, without links."""
    path = Path(where)
    if not is_local(where) or not path.parent.is_dir():
        return []
    return [
        str(one) for one in path.parent.iterdir() if one.suffix == path.suffix and one != path and not one.is_symlink()
    ]


def occupy(where: str, run: str | None, file_system: Any) -> None:
    """Create a pointer to `run`, or a directory if that is None, at a place that a save begins to write.

    A link is removed, and its target stays. A file of Lightning is renamed, as it may be the only checkpoint until the
    save is durable.

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
        _log.warning("%s was not a checkpoint of ckptd; it is now %s", where, aside)
    if run is None:
        with suppress(FileNotFoundError):
            if read_pointer(where) is not None:
                path.unlink()  # a pointer to a daemon's run; this save is local
        path.mkdir(parents=True, exist_ok=True)
    elif not path.is_dir():  # a directory of direct mode stays, and its path is taken, too
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name[:200]}.{uuid.uuid4().hex[:8]}")
        try:
            draft.write_text(json.dumps({"kind": _KIND, "run": run}) + "\n", encoding="utf-8")
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise


def read_pointer(where: str) -> str | None:
    """Return the daemon's run that a pointer names; None without a pointer.

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
    """Remove places, and those beside them, with an unfinished save only; return whether there were any.

    Otherwise a program that was killed in its first save would find them at every start.
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
    """Remove what `occupy` created, and the marks of an empty run. Files of other programs stay."""
    if not is_local(where):
        _clear_bucket(where, file_system)
        return
    path = Path(where)
    if path.is_dir() and not path.is_symlink():
        for directory in (*path.glob("checkpoint/"), path):  # that of a hidden file is one deeper
            if not any(directory.glob("*.index")):
                shutil.rmtree(directory / _OURS, ignore_errors=True)
                with suppress(OSError):  # it has other files
                    directory.rmdir()
    elif path.is_file() and read_pointer(where) is not None:
        path.unlink(missing_ok=True)


def _clear_bucket(where: str, file_system: Any) -> None:
    file_system.invalidate_cache(where)  # other clients write the checkpoints
    keys = file_system.find(where)
    marks = [key for key in keys if f"/{_OURS}/" in key.removeprefix(file_system._strip_protocol(where))]
    if any(key.endswith(".index") for key in keys):
        marks = [key for key in marks if key.endswith(f"/{_MARKER}")]
    for key in marks:
        with suppress(FileNotFoundError):
            file_system.rm_file(key)
    file_system.invalidate_cache(where)
