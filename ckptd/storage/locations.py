"""From the URL or path that a user writes to a store and a key in it."""

from __future__ import annotations

import os
import re
import threading
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from ckptd.errors import InvalidRequestError
from ckptd.storage.base import Store
from ckptd.storage.local.local_store import LocalStore
from ckptd.storage.local.shared_directory import SharedDirectory
from ckptd.storage.local.system_disk import SystemDisk
from ckptd.storage.local.version_files import IsSound
from ckptd.storage.memory import MemoryStore
from ckptd.storage.metered import OF_BUCKET, OF_DISK, Meter, metered, untold

if TYPE_CHECKING:
    from ckptd.storage.bucket.bucket import Bucket

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")  # one slash will do: "s3:/bucket" is a typing error, no path
_S3_SCHEMES = ("s3", "s3a")
_MEMORY_GUARD = threading.Lock()
_MEMORY: dict[str, MemoryStore] = {}


def open_store(
    url: str,
    *,
    confined: bool = True,
    patience_s: float | None = None,
    root_mode: int = 0o777,
    shared: bool = False,
    is_sound: IsSound | None = None,
    meter: Meter | None = None,
) -> Store:
    """Open the store that `url` names: a path, ``file:///path``, ``memory://name``, ``s3://bucket/path``, or what
    fsspec has a package for.

    Nothing is created, nothing need be there yet, and no request goes over a network. A memory store is one per
    process and name.

    Args:
        url: a relative path counts from the working directory, ``~`` is left to the shell.
        confined: for local stores, whether symbolic links may lead out of the root, see `LocalStore`.
        root_mode: of a local root, if it has to be created.
        shared: whether other hosts write to that directory as well, see `SharedDirectory`.
        is_sound: of such a directory: whether an object can have that content.
        patience_s: how long a server that does not answer is tried again; None is for unattended programs.
        meter: is told of every request to the disk or the bucket; memory has none.

    Raises:
        InvalidRequestError: for an empty URL, a scheme without a store, or an invalid configuration.
    """
    scheme, rest = _split(url)
    if scheme == "file":
        disk = metered(SystemDisk(), OF_DISK, meter)
        if shared:
            return SharedDirectory(rest, disk=disk, confined=confined, root_mode=root_mode, is_sound=is_sound)
        return LocalStore(rest, disk=disk, confined=confined, root_mode=root_mode)
    if shared:
        check_is_directory(url)
    if scheme == "memory":
        name = rest.strip("/")
        with _MEMORY_GUARD:
            return _MEMORY.setdefault(name, MemoryStore(name))
    if scheme in ("http", "https"):
        raise InvalidRequestError(
            f"{url!r} is neither a store nor the address of a daemon (grpc://HOST:PORT or grpcs://HOST:PORT); "
            "download the checkpoint first, or open the bucket that it is in: s3://BUCKET/PATH"
        )
    name, _, root = rest.partition("/")
    if not name:
        raise InvalidRequestError(f"{url!r} names no bucket; pass {scheme}://BUCKET/PATH")
    return _in_bucket(scheme, name, root, patience_s, meter)


def split_prefix(prefix_or_url: str, *, confined: bool = False) -> tuple[Store, str]:
    """Split the name of one checkpoint or object into the store of its directory and its key there.

    ``/d/run/model.ckpt-5`` becomes the store ``/d/run`` and ``model.ckpt-5``; a bare name is in the working
    directory. In memory everything up to the first slash names the store. Links are followed, unless `confined`:
    a user who types a path may read through it.

    Raises:
        InvalidRequestError: when it ends in a slash or names no object.
    """
    scheme, rest = _split(prefix_or_url)
    if scheme == "memory":
        name, _, key = rest.lstrip("/").partition("/")
    elif scheme == "file":
        name, key = os.path.split(rest)
        name = name or os.curdir
    else:
        name, _, key = rest.rpartition("/")
    if not key or not name or key in (os.curdir, os.pardir):
        raise InvalidRequestError(f"{prefix_or_url!r} names a directory; pass the prefix of a checkpoint")
    return open_store(name if scheme == "file" else f"{scheme}://{name}", confined=confined), key


def check_is_directory(url: str) -> None:
    """Raise `InvalidRequestError` for a URL of anything else, such as a bucket; nothing is opened."""
    if _split(url)[0] != "file":
        raise InvalidRequestError(f"{url!r} is no directory: only one can be mounted on several hosts")


def is_url(text: str) -> bool:
    """Say whether `text` is a URL and no path of this host."""
    return _SCHEME.match(text) is not None


def _in_bucket(scheme: str, name: str, root: str, patience_s: float | None, meter: Meter | None) -> Store:
    # Programs that stay on this host need not load the code for buckets.
    from ckptd.storage.bucket.object_store import ObjectStore

    parts = [part for part in root.split("/") if part]
    if any(part in (os.curdir, os.pardir) for part in parts):
        raise InvalidRequestError(f"a path in a bucket has no '.' or '..': {root!r}")
    bucket: Bucket
    if scheme in _S3_SCHEMES:
        from ckptd.storage.bucket.s3_options import open_s3

        bucket = open_s3(name, patience_s, untold if meter is None else meter.repeated)
    else:
        from ckptd.storage.bucket.fsspec_bucket import open_fsspec

        bucket = open_fsspec(scheme, name)
    return ObjectStore(metered(bucket, OF_BUCKET, meter), "/".join(parts))


def _split(url: str) -> tuple[str, str]:
    """Return the scheme ("file" for paths) and what follows it."""
    if not url:
        raise InvalidRequestError("a store needs a path or a URL")
    if "\0" in url:
        raise InvalidRequestError(f"a path must not contain NUL: {url!r}")
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
    if not url[match.end(1) :].startswith("://"):
        raise InvalidRequestError(f"{url!r}: did you mean {match[1]}://{url[match.end() :].lstrip('/')}?")
    return scheme, url[match.end(1) + 3 :]
