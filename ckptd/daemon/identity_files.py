"""The files of identities and rights: tokens, policy, certificates. Read at the start, and again when one has changed.

A change that cannot be used is told in the log and in `status`, and what was read before goes on: a typing error must
not lock a training job out. Each call is judged by the new content, and one under way that it does not allow ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ckptd.access import idle_rows, policy, token_file, tokens
from ckptd.access.idle_rows import Seen
from ckptd.access.opening import opened
from ckptd.access.policy import Policy
from ckptd.daemon import identity_records
from ckptd.daemon.config import Config
from ckptd.engine.journal import NO_JOURNAL, Journal, JournalEntry, Reserve
from ckptd.errors import CkptdError, InvalidRequestError, NotFoundError, NotPermittedError
from ckptd.service.gate import Access
from ckptd.wire import addresses, tls_faults
from ckptd.wire.server_tls import Tls

LOOK_EVERY_S = 1.0
_NOT_USED = "a changed file is not used, what was read of it before goes on"

_log = logging.getLogger("ckptd.daemon")


def read_access(config: Config) -> Access:
    """Read which identities there are and what they may do.

    Raises:
        NotFoundError, NotPermittedError, InvalidRequestError: of the file that is missing, closed to us or wrong.
    """
    if config.insecure_loopback and (config.token_file or config.tokens or config.client_ca):
        raise InvalidRequestError(
            "--insecure-loopback serves callers without an identity, but --token-file, --tokens and --client-ca "
            "require one: leave out one or the other"
        )
    token = None if config.token_file is None else token_file.read(config.token_file)
    named = None if config.tokens is None else tokens.read(config.tokens)
    return Access(
        shared_token=token,
        tokens=named,
        policy=policy.NO_POLICY if config.policy is None else policy.read(config.policy),
        admits_loopback=config.insecure_loopback,
        socket_owner=None if socket_mode(config) & 0o066 else os.geteuid(),
    )


def read_tls(config: Config) -> Tls | None:
    """Read our certificate and the authority of our clients'; None without TLS. Raises as `read_access`."""
    if (config.tls_cert is None) != (config.tls_key is None):
        raise InvalidRequestError("--tls-cert and --tls-key belong together")
    if config.client_ca is not None and config.tls_cert is None:
        raise InvalidRequestError("--client-ca needs --tls-cert and --tls-key")
    if config.tls_cert is None or config.tls_key is None:
        return None
    client_ca = None if config.client_ca is None else read_file(config.client_ca)
    tls = Tls(read_file(config.tls_cert), read_file(config.tls_key), client_ca)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers(tls_faults.ANY_STRENGTH)
    tls_faults.load(context, tls.certificate, tls.key, "the daemon", f"{config.tls_cert} and {config.tls_key}")
    if client_ca is not None:
        tls_faults.trust(context, client_ca, f"--client-ca {config.client_ca}")
    return tls


def socket_mode(config: Config) -> int:
    """Return the permissions of Unix sockets."""
    try:
        mode = int(config.socket_mode, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise InvalidRequestError("--socket-mode is no mode in octal", expected="0600", actual=config.socket_mode)
    return mode


def warn_of_readable_secrets(config: Config) -> None:
    """Write a line for each file of secrets that other users of this host may read."""
    for path in (config.token_file, config.tokens, config.tls_key, config.coordinator_token_file, config.key):
        if path is not None and tokens.readable_by_others(path):
            _log.warning("%s can be read by other users of this host: chmod 600 %s", path, path)


def complaints(config: Config, access: Access, tls: Tls | None) -> list[str]:
    """Return what of the files cannot be meant so, a sentence each, although they can be used."""
    why = "" if tls is None else tls_faults.fault_of(tls.certificate, tls.key, is_server_s=True)
    of_tls = [f"no client takes the daemon's certificate, {config.tls_cert}: {why}"] if why else []
    return [*of_tls, *_of_policy(config, access)]


def _of_policy(config: Config, access: Access) -> list[str]:
    """Return what of the policy changes nothing: typing errors, or what is meant for later."""
    if config.policy is None:
        return []
    has_socket = not config.listen or any(addresses.parse(each).is_unix for each in config.listen)
    users: frozenset[str] | None = None if has_socket else frozenset()
    if has_socket and access.socket_owner is not None:
        users = frozenset({"0", str(access.socket_owner)})
    seen = Seen(
        *idle_rows.known_tokens(access.shared_token, access.tokens),
        has_certificates=config.client_ca is not None,
        users=users,
        has_loopback=access.admits_loopback,
    )
    return [
        f"{config.policy}: {each}"
        for each in (*idle_rows.unseen_identities(access.policy, seen), *idle_rows.idle_rows(access.policy))
    ]


Signature = tuple[tuple[int, ...] | None, ...]
"""Differs when a file was replaced, written, or given to other users."""


def signature(config: Config) -> Signature:
    """Look at all files, without reading them. To be taken before they are read, so that no change is missed."""
    return tuple(_state(path) for path in _paths(config))


class IdentityFiles:
    """Looks whether a file has changed, once a second and when it is told to; and says what was read then.

    A file that cannot be used leaves what was read of it before: it keeps no other file from being used, as a policy
    with a mistake must not bring a revoked token back. One that still changes is read when it no longer does.
    """

    def __init__(
        self,
        config: Config,
        seen: Signature,
        access: Access,
        changed: Callable[[Access, Tls | None, Sequence[str]], None],
        journal: Journal = NO_JOURNAL,
    ) -> None:
        """`seen` and `access` are of the start; `changed` is called on the event loop, with what an admin has to know.

        `journal` is told of every change.
        """
        self._config, self._journal = config, journal
        self._changed = changed
        self._access = access
        self._used = self._last = seen
        self._refusal = ""  # why a change could not be recorded
        self._due = asyncio.Event()

    def look_now(self) -> None:
        """Read all files again, changed or not: what SIGHUP requests."""
        self._due.set()

    async def run(self) -> None:
        """Look until cancelled."""
        paths = _paths(self._config)
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._due.wait(), LOOK_EVERY_S)
            is_requested = self._due.is_set()
            self._due.clear()
            found = await asyncio.to_thread(signature, self._config)
            is_settled, self._last = found == self._last, found
            if is_requested or (is_settled and found != self._used):
                changed = [path for path, one, other in zip(paths, self._used, found, strict=True) if one != other]
                if await self._read_again(is_requested, paths if is_requested else changed):
                    self._used = found

    async def _read_again(self, is_requested: bool, paths: Sequence[str]) -> bool:
        """Read all files: `paths` are those that the log names. Return False if that could not be recorded."""
        why = "SIGHUP" if is_requested else "a file has changed"
        access, tls, problems = await asyncio.to_thread(_read_again, self._config, self._access)
        changes = {**identity_records.described(access, tls), **identity_records.differences(self._access, access)}
        told = JournalEntry("identities", reserve=Reserve.HALF, details={"why": why, "files": list(paths), **changes})
        try:
            await asyncio.to_thread(self._journal.begins, told)
        except CkptdError as error:
            if str(error) != self._refusal:  # it is tried again every second
                _log.error("%s: %s", _NOT_USED, error)
            self._refusal = str(error)
            return False
        self._refusal = ""
        self._access = access
        found = await asyncio.to_thread(complaints, self._config, access, tls)
        try:
            self._changed(access, tls, (*(f"{_NOT_USED}: {problem}" for problem in problems), *found))
        except CkptdError as error:
            problems.append(str(error))
        for problem in problems:
            _log.error("%s: %s", _NOT_USED, problem)
        outcome = told.ended("in part", {"problems": problems}) if problems else told.ended()
        await asyncio.to_thread(self._journal.ended, outcome)
        if not problems:
            _log.info("read again, as %s: %s", why, ", ".join(paths) or "there are no files of identities")
        for each in found:
            _log.warning("%s", each)
        return True


def _paths(config: Config) -> list[str]:
    each = (config.token_file, config.tokens, config.policy, config.tls_cert, config.tls_key, config.client_ca)
    return [path for path in each if path is not None]


def _read_again(config: Config, before: Access) -> tuple[Access, Tls | None, list[str]]:
    readers: dict[str, tuple[str | None, Callable[[str], object]]] = {
        "shared_token": (config.token_file, token_file.read),
        "tokens": (config.tokens, tokens.read),
        "policy": (config.policy, _policy_again),
    }
    fresh: dict[str, Any] = {}
    problems: list[str] = []
    for name, (path, read) in readers.items():
        try:
            if path is not None:
                fresh[name] = read(_plain(path))
        except CkptdError as error:
            problems.append(str(error))
    tls = None
    try:
        for path in (config.tls_cert, config.tls_key, config.client_ca):
            _ = path and _plain(path)
        tls = read_tls(config)
    except CkptdError as error:
        problems.append(str(error))
    return replace(before, **fresh), tls, problems


def _plain(path: str) -> str:
    """Refuse what is no file any more: a pipe would keep us waiting for its writer, and from the other files."""
    if Path(path).exists() and not Path(path).is_file():
        raise InvalidRequestError("this is no file any more", key=path)
    return path


def _policy_again(path: str) -> Policy:
    found = policy.read(path)
    if found == policy.parse({}):
        # Most likely a copy that was cut off. To lock all out, stop the daemon, or leave one row.
        raise InvalidRequestError("the policy has no rows any more, which would lock out every identity", key=path)
    return found


def _state(path: str) -> tuple[int, ...] | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns


def read_file(path: str) -> bytes:
    """Return what a file holds; `NotFoundError` or `NotPermittedError` with its path."""
    try:
        with opened(path) as file:
            return file.read()
    except FileNotFoundError as e:
        raise NotFoundError("there is no such file", key=path) from e
    except OSError as e:
        raise NotPermittedError(f"the file cannot be read: {e.strerror}", key=path) from e
