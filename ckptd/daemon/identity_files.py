"""The files that say who may call: tokens, policy, certificates. Read at the start, and again when one has changed.

A change that cannot be read is told in the log, and what was read before goes on: a typing error must not lock a
training job out. Saves under way are not touched by any change; the next call is judged by the new content.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

from ckptd.access import policy, tokens
from ckptd.daemon.config import Config
from ckptd.errors import CkptdError, InvalidRequestError, NotFoundError, NotPermittedError
from ckptd.service.certificates import Tls
from ckptd.service.gate import Access

LOOK_EVERY_S = 1.0

_log = logging.getLogger("ckptd.daemon")


def read_access(config: Config) -> Access:
    """Read which identities there are and what they may do.

    Raises:
        NotFoundError, NotPermittedError, InvalidRequestError: of the file that is missing, closed to us or wrong.
    """
    token = None if config.token_file is None else _token(config.token_file)
    named = None if config.tokens is None else tokens.read(config.tokens)
    return Access(
        shared_token=token,
        tokens=named,
        policy=policy.NO_POLICY if config.policy is None else policy.read(config.policy),
        admits_loopback=token is None and named is None,
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
    client_ca = None if config.client_ca is None else _read(config.client_ca)
    return Tls(_read(config.tls_cert), _read(config.tls_key), client_ca)


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
    for path in (config.token_file, config.tokens, config.tls_key):
        if path is not None and tokens.readable_by_others(path):
            _log.warning("%s can be read by other users of this host: chmod 600 %s", path, path)


class IdentityFiles:
    """Looks whether a file has changed, once a second and when it is told to; and says what was read then."""

    def __init__(self, config: Config, changed: Callable[[Access, Tls | None], None]) -> None:
        """`changed` is called on the event loop."""
        self._config = config
        self._changed = changed
        self._paths = [
            path
            for path in (
                config.token_file,
                config.tokens,
                config.policy,
                config.tls_cert,
                config.tls_key,
                config.client_ca,
            )
            if path is not None
        ]
        self._seen = self._signature()
        self._due = asyncio.Event()

    def look_now(self) -> None:
        """Read all files again, changed or not: what SIGHUP requests."""
        self._seen = None
        self._due.set()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._due.wait(), LOOK_EVERY_S)
            is_requested = self._due.is_set()
            self._due.clear()
            signature = await asyncio.to_thread(self._signature)
            if signature == self._seen:
                continue
            self._seen = signature
            await self._read_again(is_requested)

    async def _read_again(self, is_requested: bool) -> None:
        try:
            access = await asyncio.to_thread(read_access, self._config)
            tls = await asyncio.to_thread(read_tls, self._config)
            self._changed(access, tls)
        except CkptdError as error:
            _log.error("a changed file is not used, what was read before goes on: %s", error)
            return
        why = "SIGHUP" if is_requested else "a file has changed"
        _log.info("read again, as %s: %s", why, ", ".join(self._paths) or "there are no files of identities")

    def _signature(self) -> tuple[tuple[int, ...] | None, ...] | None:
        """Return what changes when a file is replaced or written."""
        return tuple(_state(path) for path in self._paths)


def _state(path: str) -> tuple[int, ...] | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _token(path: str) -> str:
    token = _read(path).strip()
    if not token or not token.isascii() or b"\n" in token:
        raise InvalidRequestError("a token file holds one line of printable ASCII", key=path)
    return token.decode()


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as e:
        raise NotFoundError("there is no such file", key=path) from e
    except OSError as e:
        raise NotPermittedError(f"the file cannot be read: {e.strerror}", key=path) from e
