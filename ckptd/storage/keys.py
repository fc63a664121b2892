"""The keys that every store accepts, and the names that a store reserves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ckptd.errors import CkptdError, InvalidRequestError

UNFINISHED_SUFFIX = ".ckptd-tmp"
"""Ends the name of an object that is still being written."""

LOCK_SUFFIX = ".ckptd-lock"
"""Ends the name of a lock."""

VERSIONS_SUFFIX = ".ckptd-versions"
"""Ends the name of the directory that holds the versions of an object, where several hosts write to its directory."""

_MAX_KEY_BYTES = 4000  # the kernel's limit on a path is 4096, and the root needs room too


def check_key(key: str) -> tuple[str, ...]:
    """Split `key` into its components; `InvalidRequestError` for one that no store may take.

    Refused are absolute and empty keys, empty, ``.`` and ``..`` components, NUL bytes, and the names that stores
    reserve. A key is used as it is: nothing is decoded or normalised, so nothing can be smuggled in.
    """
    parts = _check_path(key)
    if is_reserved(parts[-1]):
        raise InvalidRequestError("this name is reserved for the store's own files", key=key)
    return parts


def check_directory(directory: str) -> tuple[str, ...]:
    """Split a directory's key into its components; the root is "" and gives none."""
    return _check_path(directory) if directory else ()


def is_reserved(name: str) -> bool:
    """Say whether `name`, one component, belongs to a store and not to its users."""
    return name.startswith(".") and name.endswith((UNFINISHED_SUFFIX, LOCK_SUFFIX, VERSIONS_SUFFIX))


def join(directory: str, name: str) -> str:
    """Put `name` below `directory`, which is "" for the root."""
    return f"{directory}/{name}" if directory else name


def lock_file(key: str) -> str:
    """Return the path of the file that a local store locks for the lock named `key`."""
    directory, _, name = key.rpartition("/")
    return join(directory, f".{name}{LOCK_SUFFIX}")


def _check_path(key: str) -> tuple[str, ...]:
    if len(key) > _MAX_KEY_BYTES or len(key.encode("utf-8", "surrogateescape")) > _MAX_KEY_BYTES:
        raise InvalidRequestError(f"a key may have {_MAX_KEY_BYTES} bytes at most", key=key[:80] + "…")
    parts = tuple(key.split("/"))
    for part in parts:
        if part in ("", ".", ".."):
            raise InvalidRequestError("a key is a relative path without empty, '.' or '..' components", key=repr(key))
        if "\0" in part:
            raise InvalidRequestError("a key must not contain NUL", key=repr(key))
    return parts


@contextmanager
def named(key: str) -> Iterator[None]:
    """Let errors name the key as a store knows it, not as the bucket behind it does."""
    try:
        yield
    except CkptdError as error:
        error.key = key
        raise
