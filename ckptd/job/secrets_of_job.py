"""What the nodes of a job share so that they trust each other: an authority and a token, in a directory that all see.

The first node makes them; the others wait for the token, which is written last. Each node has the authority sign a
certificate of its own. The directory and everything in it belong to the job's user alone.
"""

from __future__ import annotations

import os
import secrets
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ckptd.access import token_file, tokens
from ckptd.access.issuing import issue
from ckptd.errors import InvalidRequestError, NotPermittedError, UnavailableError

CA_NAME, TOKEN_NAME = "ca.crt", "token"
_LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class JobSecrets:
    """Paths of files; `certificate` and `key` are this node's own."""

    ca: str
    token: str
    certificate: str
    key: str


def make(directory: Path, hosts: tuple[str, ...], own: Path) -> JobSecrets:
    """Make what is missing in `directory`, as the first node of the job, and this node's certificate in `own`.

    Args:
        directory: seen by all nodes; made if it is missing.
        hosts: names and addresses by which this node is reached.
        own: a directory of this node alone.

    Raises:
        NotPermittedError: other users may look into the directory, or it cannot be written.
        InvalidRequestError: it is no directory, or the package that makes certificates is missing.
        ConflictError: the authority there can sign nothing.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError as error:
        raise InvalidRequestError("--job-dir is no directory", key=str(directory)) from error
    except OSError as error:
        raise NotPermittedError(f"--job-dir cannot be made: {error.strerror}", key=str(directory)) from error
    _check_private(directory)
    found = _with_certificate(directory, hosts, own)
    if not Path(found.token).exists():
        with token_file.made(found.token, replaces=True) as write:  # appears whole, under its name
            write(tokens.PREFIX + secrets.token_urlsafe(32))
    return found


def wait_for(
    directory: Path, hosts: tuple[str, ...], own: Path, timeout_s: float, give_up: Callable[[], None]
) -> JobSecrets:
    """Wait until the first node has made them; the arguments are those of `make`.

    Args:
        timeout_s: how long.
        give_up: called now and then; raises to end the wait.

    Raises:
        UnavailableError: the first node has made none in this time.
    """
    until = time.monotonic() + timeout_s
    while not _is_there(directory):
        give_up()
        if time.monotonic() >= until:
            raise UnavailableError(
                f"the first node of the job has put no token here in {timeout_s:g} s: does its `ckptd run` run, with "
                "this --job-dir, and do all nodes see it?",
                key=str(directory),
            )
        time.sleep(min(_LOOK_S, timeout_s))
    _check_private(directory)
    return _with_certificate(directory, hosts, own)


def _is_there(directory: Path) -> bool:
    try:  # a listing, as NFS may remember for seconds that a name was not there
        return any(path.name == TOKEN_NAME for path in directory.iterdir())
    except FileNotFoundError:
        return False
    except OSError as error:
        raise NotPermittedError(f"--job-dir cannot be read: {error.strerror}", key=str(directory)) from error


def _with_certificate(directory: Path, hosts: tuple[str, ...], own: Path) -> JobSecrets:
    made = issue(str(directory), hosts, into=str(own))
    server = next(each for each in made if each.kind == "server")
    return JobSecrets(str(directory / CA_NAME), str(directory / TOKEN_NAME), server.certificate, server.key)


def _check_private(directory: Path) -> None:
    found = directory.stat()
    if not stat.S_ISDIR(found.st_mode):
        raise InvalidRequestError("--job-dir is no directory", key=str(directory))
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise NotPermittedError(
            "the secrets of the job are in --job-dir, so it must belong to its user alone: chmod 700, or name another",
            key=str(directory),
        )
