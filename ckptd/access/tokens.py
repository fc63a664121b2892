"""Bearer tokens with names: made once, shown once, and kept as hashes in one file.

The file is JSON and belongs to the daemon's user alone::

    {"version": 1, "tokens": [{"name": "vision", "sha256": "9f86…", "created_at": 1.7e9, "expires_at": null}]}

A token is 256 random bits, so a plain SHA-256 is hard enough to undo; the name in it is only for people. What a token
may do stands in the policy (`ckptd.access.policy`), never here.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ckptd.access.opening import opened
from ckptd.errors import ConflictError, InvalidRequestError, NotFoundError, NotPermittedError

PREFIX = "ckptd_"
"""Begins every token that we make, so that a scanner for secrets finds a lost one."""

SHARED = "token-file"
"""What the one token of ``--token-file`` is called by a policy: no token of this file may have that name."""

_VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.@-]{0,62}[A-Za-z0-9])?", re.ASCII)
_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)
_MOST_BYTES = 16 << 20
_MOST_S = 100 * 366 * 86400.0
_LAST_MOMENT_S = 253_402_214_400.0  # in the year 9999, the last that can be shown


@dataclass(frozen=True, slots=True)
class Token:
    """What is kept of a token. Times are wall-clock seconds since the epoch; `expires_at` None: never."""

    name: str
    sha256: str
    created_at: float
    expires_at: float | None = None

    def is_expired(self, now: float) -> bool:
        """Say whether it has ended."""
        return self.expires_at is not None and now >= self.expires_at


class Tokens:
    """The tokens of one file, as they were when it was read."""

    def __init__(self, tokens: Mapping[str, Token]) -> None:
        """`tokens` by name."""
        self._by_name = dict(tokens)
        self._by_hash = {token.sha256: token for token in tokens.values()}

    def __iter__(self) -> Iterator[Token]:
        return iter(sorted(self._by_name.values(), key=lambda token: token.name))

    def find(self, shown: str) -> Token | None:
        """Return the token that was shown, expired or not; None if there is none such."""
        return self.find_hash(hash_of(shown))

    def find_hash(self, sha256: str) -> Token | None:
        """Return the token that has this hash, expired or not; None if there is none such."""
        return self._by_hash.get(sha256)


def is_name(name: str) -> bool:
    """Say whether a token may be called so; the shared one, too, has such a name."""
    return _NAME.fullmatch(name) is not None


def hash_of(shown: str) -> str:
    """Return what is kept of a token."""
    return hashlib.sha256(shown.encode("utf-8", "surrogateescape")).hexdigest()


def read(path: str) -> Tokens:
    """Read a token file.

    Raises:
        NotFoundError: there is none.
        NotPermittedError: it cannot be read.
        InvalidRequestError: it is no token file.
    """
    return Tokens({token.name: token for token in _read(Path(path))})


def create(path: str, name: str, *, expires_s: float | None = None) -> str:
    """Make a token, add it to the file and return it: it cannot be shown again.

    Raises:
        InvalidRequestError: a bad name or time.
        ConflictError: there is a token of this name.
        NotPermittedError: the file cannot be written.
    """
    if not is_name(name):
        raise InvalidRequestError("a token's name has up to 64 letters, digits and _ . @ -", actual=name[:100])
    if name == SHARED:
        raise InvalidRequestError("the token of --token-file is called so: choose another name", actual=name)
    if expires_s is not None and not 0 < expires_s <= _MOST_S:
        raise InvalidRequestError("a token ends after a positive time, of a hundred years at most", actual=expires_s)
    shown = PREFIX + secrets.token_urlsafe(32)
    now = time.time()
    with _changing(Path(path), create=True) as tokens:
        if any(token.name == name for token in tokens):
            raise ConflictError(f"there is a token {name!r} already: revoke it first, or choose another name", key=path)
        tokens.append(Token(name, hash_of(shown), now, None if expires_s is None else now + expires_s))
    return shown


def revoke(path: str, name: str) -> None:
    """Remove a token; a daemon that uses the file refuses it within seconds. `NotFoundError` if there is none such."""
    with _changing(Path(path), create=False) as tokens:
        left = [token for token in tokens if token.name != name]
        if len(left) == len(tokens):
            raise NotFoundError(f"there is no token {name!r}", key=path)
        tokens[:] = left


def readable_by_others(path: str, *, user: int | None = None) -> bool:
    """Say whether others than `user`, by default ours, may read a file of secrets.

    One that another user owns may be open to its group: that is how we read it, as what Kubernetes mounts for us.
    """
    try:
        status = Path(path).stat()
    except OSError:
        return False
    is_ours = status.st_uid == (os.geteuid() if user is None else user)
    return bool(status.st_mode & (0o077 if is_ours else 0o007))


@contextmanager
def _changing(path: Path, *, create: bool) -> Iterator[list[Token]]:
    """Yield the file's tokens, and write them back whole when the block ends well. One process at a time.

    A link stays one, and a daemon that reads the file by its own name sees the change.
    """
    path = Path(os.path.realpath(path))
    try:
        lock = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _refused(path, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tokens = [] if create and not path.exists() else _read(path)
        yield tokens
        _write(path, tokens)
        os.fsync(lock)
    finally:
        os.close(lock)


def _read(path: Path) -> list[Token]:
    try:
        with opened(path) as file:
            data = file.read(_MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise NotFoundError("there is no such token file: `ckptd token new NAME` makes one", key=str(path)) from error
    except OSError as error:
        raise _refused(path, error) from error
    if len(data) > _MOST_BYTES:
        raise InvalidRequestError("this is no token file: it is too large", key=str(path), actual=len(data))
    try:
        content = json.loads(data)
        tokens = [_token(item) for item in content["tokens"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidRequestError(
            "this is no token file as `ckptd token` writes it; a file that holds one token itself goes to --token-file",
            key=str(path),
        ) from error
    if content.get("version") != _VERSION:
        raise InvalidRequestError("the token file is of another version of ckptd", key=str(path))
    if len({token.name for token in tokens}) < len(tokens):
        raise InvalidRequestError("two tokens of this file have the same name", key=str(path))
    return tokens


def _token(item: Any) -> Token:
    token = Token(**item)
    times = (token.created_at, token.expires_at or 0.0)
    if not (
        is_name(token.name) and _HASH.fullmatch(token.sha256) and all(0 <= each < _LAST_MOMENT_S for each in times)
    ):
        raise ValueError
    return token


def _write(path: Path, tokens: list[Token]) -> None:
    text = json.dumps({"version": _VERSION, "tokens": [asdict(token) for token in tokens]}, indent=1)
    try:
        descriptor, unfinished = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # 0600
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(text + "\n")
                file.flush()
                _keep_owner(path, file.fileno())
                os.fsync(file.fileno())
            Path(unfinished).replace(path)
        except BaseException:
            Path(unfinished).unlink()
            raise
    except OSError as error:
        raise _refused(path, error) from error


def _keep_owner(path: Path, descriptor: int) -> None:
    """Leave a file to its owner: a daemon that can no longer read it would go on with the tokens that it knows."""
    try:
        before = path.stat()
    except FileNotFoundError:
        return
    if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
        os.fchown(descriptor, before.st_uid, before.st_gid)
    os.fchmod(descriptor, before.st_mode & 0o777)


def _refused(path: Path, error: OSError) -> NotPermittedError:
    return NotPermittedError(f"the token file cannot be used: {error.strerror}", key=str(path))
