"""Where an agent finds its coordinator, and what it shows it there.

The operator names addresses, or else the root's note of the term does. Of several the first that answers is taken. One
that answers and does not let the agent attend is passed by after a while, as its coordinator may hang.

The note may have been written by anyone who can write to the root. So it is a hint only: what it names is trusted if
the operator's authority has signed its certificate, or if it is a Unix socket of this user or of root. An address of
the loopback interface is called without a token, as any user of this host could listen there. Nothing else is called.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc

from ckptd.engine.catalog import term
from ckptd.engine.refusals import NotNowError
from ckptd.errors import CkptdError, NotPermittedError, UnavailableError
from ckptd.storage.base import Store
from ckptd.wire import addresses, places, tls
from ckptd.wire.addresses import Address
from ckptd.wire.channels import open_channel
from ckptd.wire.credentials import NO_CREDENTIALS, Credentials

TRY_S = 2.0
"""How long an address may take to answer before the next one is tried."""
PATIENCE_S = 5.0
"""How long an address that answers may not let us attend before the next one is tried."""
_FIRST_AGAIN_S, _LAST_AGAIN_S = 0.5, 5.0  # between two looks at the note; each is varied by half


class Whereabouts:
    """See the module. Thread-safe."""

    def __init__(
        self,
        store: Store,
        given: Sequence[str] = (),
        credentials: Callable[[], Credentials] = lambda: NO_CREDENTIALS,
        *,
        now: Callable[[], float] = time.monotonic,
        vary: Callable[[], float] = random.random,
    ) -> None:
        """Look up nothing yet.

        Args:
            store: with the note of the term, which is read where nothing is `given`.
            given: the operator's addresses, the best first.
            credentials: returns what is shown to the coordinator, and the authority that signed its certificate.
            now: a forward-only clock, in seconds.
            vary: returns a number from 0 to 1, by which agents that look at one moment look apart the next time.
        """
        self._store, self._given, self.credentials = store, tuple(given), credentials
        self._now, self._vary = now, vary
        self._lock = threading.Lock()
        self._noted: tuple[str, ...] = ()
        self._look_at, self._again_s = 0.0, _FIRST_AGAIN_S
        self._tried = ""  # the address that was taken last
        self._taken_at = 0.0

    def attended(self) -> None:
        """Hear that the address that was taken last is right."""
        with self._lock:
            self._taken_at, self._again_s, self._look_at = self._now(), _FIRST_AGAIN_S, 0.0

    def find(self) -> tuple[Address, Credentials]:
        """Return the first address that answers, and what it is shown. May block for `TRY_S` for each.

        Raises:
            NotNowError: there is none; the reason says why each was not taken.
        """
        with self._lock:
            named = self._given or self._read_note()
            if not named:
                raise NotNowError("this root has no coordinator yet: start one, or say where it is by --coordinator")
            refused = []
            for text in self._in_turn(named):
                try:
                    found = self._usable(text)
                except CkptdError as error:
                    refused.append(str(error))
                    continue
                if text != self._tried:
                    self._tried, self._taken_at = text, self._now()
                return found
        raise NotNowError("; ".join(refused))

    def _in_turn(self, named: Sequence[str]) -> list[str]:
        """Begin with the first; but after one that was taken and has not let us attend in time, with the next."""
        if self._tried not in named or self._now() - self._taken_at <= PATIENCE_S:
            start = named.index(self._tried) if self._tried in named else 0
        else:
            start, self._tried = (named.index(self._tried) + 1) % len(named), ""
        return [*named[start:], *named[:start]]

    def _read_note(self) -> tuple[str, ...]:
        now = self._now()
        if now >= self._look_at:
            self._look_at = now + self._again_s * (0.5 + self._vary())
            self._again_s = min(2 * self._again_s, _LAST_AGAIN_S)
            note = term.look(self._store)
            self._noted = () if note is None else note.addresses
        return self._noted

    def _usable(self, text: str) -> tuple[Address, Credentials]:
        address, all_of_it = addresses.parse(text), self.credentials()
        shown = all_of_it if address.secure else Credentials(token=all_of_it.token)
        if not self._given:
            shown = _trusted(address, shown)
        if address.secure:
            tls.check(address, shown, timeout_s=TRY_S)
        else:
            _check_answers(address)
        return address, shown


def _trusted(address: Address, shown: Credentials) -> Credentials:
    """Return what may be shown at an address of which only the root knows; `NotPermittedError` if it is not called."""
    where = f"the root says that its coordinator is at {address}"
    if address.is_unix:
        try:
            owner = Path(address.path).stat().st_uid
        except OSError as error:
            raise UnavailableError(f"{where}, and that socket cannot be used: {error.strerror}") from error
        if owner not in (0, os.geteuid()):
            raise NotPermittedError(
                f"{where}, and that socket is of user {owner}: it is not trusted unless --coordinator names it"
            )
        return shown
    if address.secure:
        if shown.ca is None:
            raise NotPermittedError(f"{where}: that is trusted only with --ca, the authority of its certificate")
        return shown
    if not address.is_loopback:
        raise NotPermittedError(f"{where}, without TLS: that is not trusted unless --coordinator names it")
    return NO_CREDENTIALS


def _check_answers(address: Address) -> None:
    if address.is_unix:
        places.check_access(address)
    family = socket.AF_UNIX if address.is_unix else socket.AF_UNSPEC
    try:
        if family is socket.AF_UNIX:
            with socket.socket(family, socket.SOCK_STREAM) as plain:
                plain.settimeout(TRY_S)
                plain.connect(address.path)
        else:
            socket.create_connection((address.host, address.port), TRY_S).close()
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnavailableError(f"no coordinator answers at {address}: {why}") from error


def channel_to(address: Address, shown: Credentials) -> grpc.Channel:
    """Open a channel to a coordinator that was found."""
    return open_channel(address, token=shown.token, ca=shown.ca, client_certificate=shown.client_certificate)
