"""From what a user writes, a URL or a path, to a store and a key in it."""

from __future__ import annotations

import os
import re
import threading
from urllib.parse import unquote, urlsplit

from ckptd.errors import InvalidRequestError
from ckptd.storage.base import Store
from ckptd.storage.local import LocalStore
from ckptd.storage.memory import MemoryStore

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")  # one slash will do: "s3:/bucket" is a typing error, no path
_MEMORY_GUARD = threading.Lock()
_MEMORY: dict[str, MemoryStore] = {}


def open_store(url: str, *, confined: bool = True) -> Store:
    """Open the store that `url` names: a path, ``file:///path`` or ``memory://name``.

    Nothing is created and nothing need be there yet. A memory store is one per process and name.

    Args:
        url: a relative path counts from the working directory, ``~`` is left to the shell.
        confined: for local stores, whether symbolic links may lead out of the root, see `LocalStore`.

    Raises:
        InvalidRequestError: for an empty URL, or a scheme that this release has no store for.
    """
    scheme, rest = _split(url)
    if scheme == "memory":
        name = rest.strip("/")
        with _MEMORY_GUARD:
            return _MEMORY.setdefault(name, MemoryStore(name))
    return LocalStore(rest, confined=confined)


def split_prefix(prefix_or_url: str, *, confined: bool = False) -> tuple[Store, str]:
    """Split what names one checkpoint or object into the store of its directory and its key there.

    ``/d/run/model.ckpt-5`` becomes the store ``/d/run`` and ``model.ckpt-5``; a bare name lies in the working
    directory. In memory everything up to the first slash names the store. Links are followed, unless `confined`:
    whoever types a path may read through it.

    Raises:
        InvalidRequestError: when it ends in a slash or names no object.
    """
    scheme, rest = _split(prefix_or_url)
    if scheme == "memory":
        name, _, key = rest.lstrip("/").partition("/")
    else:
        name, key = os.path.split(rest)
        name = name or os.curdir
    if not key or key in (os.curdir, os.pardir):
        raise InvalidRequestError(f"{prefix_or_url!r} names a directory; a checkpoint's prefix is wanted")
    return open_store(f"memory://{name}" if scheme == "memory" else name, confined=confined), key


def _split(url: str) -> tuple[str, str]:
    """Return the scheme ("file" for paths) and what follows it."""
    if not url:
        raise InvalidRequestError("a store needs a path or a URL")
    if "\0" in url:
        raise InvalidRequestError(f"a path holds no NUL: {url!r}")
    match = _SCHEME.match(url)
    if match is None:
        return "file", url
    scheme = match[1].lower()
    if scheme == "memory":
        return scheme, url[match.end(1) + 1 :].lstrip("/")
    if scheme == "file":
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost"):
            raise InvalidRequestError(
                f"{url!r} lies on the host {parts.netloc!r}; only this host's files can be opened"
            )
        if parts.query or parts.fragment:
            raise InvalidRequestError(f"{url!r}: write '?' and '#' in a file URL as %3F and %23")
        return scheme, unquote(parts.path, errors="surrogateescape")
    raise InvalidRequestError(
        f"{url!r}: this release keeps checkpoints in a directory (/path or file:///path) or in memory (memory://name); "
        f"stores for {scheme}:// come with a later release"
    )
