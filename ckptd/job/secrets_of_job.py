"""What the nodes of a job share so that they trust each other: an authority and a token, in a directory that all see.

The first node makes them; the others wait for the token, which is written last. Each node has the authority sign a
certificate of its own. The directory and everything in it belong to the job's user alone.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ckptd.access import token_file, tokens
from ckptd.access.issuing import issue
from ckptd.errors import ConflictError, InvalidRequestError, NotPermittedError, UnavailableError
from ckptd.job.waits import Wait
from ckptd.wire.credentials import Credentials

CA_NAME, TOKEN_NAME = "ca.crt", "token"


@dataclass(frozen=True, slots=True)
class JobSecrets:
    """Paths of files; `certificate` and `key` are this node's own."""

    ca: str
    token: str
    certificate: str
    key: str

    def credentials(self) -> Credentials:
        """Return what a caller of the job's coordinator shows and trusts."""
        return Credentials(token=token_file.read(self.token), ca=Path(self.ca).read_bytes())


def make(directory: Path, hosts: tuple[str, ...], own: Path) -> JobSecrets:
    """Make what is missing in `directory`, as the first node of the job, and this node's certificate in `own`.

    Args:
        directory: seen by all nodes; made if it is missing.
        hosts: names and addresses by which this node is reached.
        own: a directory of this node alone.

    Raises:
        NotPermittedError: other users may look into the directory, or it cannot be written.
        InvalidRequestError: it is no directory, or the package that makes certificates is missing.
        ConflictError: the authority there can sign nothing, or another node makes one at this moment.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError as error:
        raise InvalidRequestError("--job-dir is no directory", key=str(directory)) from error
    except OSError as error:
        raise NotPermittedError(f"--job-dir cannot be made: {error.strerror}", key=str(directory)) from error
    _check_private(directory)
    try:
        found = _with_certificate(directory, hosts, own)
    except ConflictError as error:
        raise ConflictError(
            f"the secrets of the job cannot be made: {error}. If another node takes itself for the first, too, pass "
            "--first on one only"
        ) from error
    if not Path(found.token).exists():
        with token_file.made(found.token, replaces=True) as write:  # appears whole, under its name
            write(tokens.PREFIX + secrets.token_urlsafe(32))
    return found


def wait_for(
    directory: Path, hosts: tuple[str, ...], own: Path, timeout_s: float, pause: Callable[[], None]
) -> JobSecrets:
    """Wait until the first node has made them; the arguments are those of `make`.

    Args:
        timeout_s: how long.
        pause: waits for a moment; raises to end the wait.

    Raises:
        UnavailableError: the first node has made none in this time.
    """
    wait = Wait(timeout_s)
    while not _is_there(directory):
        pause()
        if wait.is_over:
            raise UnavailableError(
                f"the first node of the job has put no token here in {timeout_s:g} s: does its `ckptd run` run, with "
                "this --job-dir, and do all nodes see it?",
                key=str(directory),
            )
        wait.goes_on(lambda: f"the first node of the job, which has put no token in {directory}")
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
