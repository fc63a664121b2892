"""The first contact with a daemon: how long it is tried, and what the user is told meanwhile.

A daemon that has answered once and is away is being restarted: it is waited for as long as a save may take. One that
has never answered is more likely not there, or the address is wrong: it is tried for a minute, and a line says so
within three seconds. The line is a warning of the logger ``ckptd.client``, which Python writes to stderr in a program
that has set up no logging.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from typing import Any

import grpc

from ckptd.client.deadline import Deadline
from ckptd.errors import CkptdError, UnavailableError
from ckptd.wire import places, tls
from ckptd.wire.addresses import Address
from ckptd.wire.credentials import NO_CREDENTIALS, Credentials

FIRST_CONTACT_S = 60.0
"""How long a daemon that has never answered is tried, in each call."""

_FIRST_NOTICE_S = 2.0
_LOOK_S = 0.5  # a daemon that is there has answered by then; only then does it pay to follow gRPC's connection
_MOST_HANDSHAKE_S = 5.0

_log = logging.getLogger("ckptd.client")


class FirstContact:
    """What is known of one daemon until it has answered for the first time. Any thread may use it."""

    def __init__(self, address: Address, credentials: Credentials = NO_CREDENTIALS) -> None:
        """`credentials`: what its channel is opened with. Nothing happens before the first `bounded` or `check`."""
        self.address = address
        self._credentials = credentials
        self._lock = threading.Lock()
        self._is_over = threading.Event()  # made, or closed
        self._is_made = False
        self._is_trusted = not address.secure
        self._error: CkptdError | None = None
        self._tried_since = self._tried_until = self._next_notice_s = 0.0
        self._channel: grpc.Channel | None = None
        self._watcher: threading.Thread | None = None

    @property
    def is_made(self) -> bool:
        """Whether the daemon has ever answered."""
        return self._is_made

    def over(self, channel: grpc.Channel) -> None:
        """Say which channel is used: it tells when the other end speaks HTTP/2, before it has answered a call."""
        self._channel = channel

    def bounded(self, deadline: Deadline) -> Deadline:
        """Return `deadline`, shortened to a minute from now for as long as there is no contact; the user is told."""
        if self._is_made:
            return deadline
        bounded = _UntilContact(self, deadline)
        now = time.monotonic()
        with self._lock:
            if now > self._tried_until + _FIRST_NOTICE_S:  # a new beginning, and not the next step of one attempt
                self._tried_since, self._next_notice_s = now, _FIRST_NOTICE_S
            self._tried_until = max(self._tried_until, now + bounded.remaining_s)
            if self._watcher is None and not self._is_over.is_set():
                self._watcher = threading.Thread(target=self._watch, name="ckptd-contact", daemon=True)
                try:
                    self._watcher.start()
                except RuntimeError as error:
                    self._watcher = None
                    raise UnavailableError(f"no thread could be started: {error}") from error
        return bounded

    def check(self) -> None:
        """Check, before gRPC connects, what gRPC would only report as unavailable.

        That is the certificate, if the daemon uses TLS and it was not checked yet, and access to the socket; and after
        a failure without TLS, whether the other end uses it.

        Raises:
            NotPermittedError: this user may not use the socket.
            CkptdError: see `tls.check`.
        """
        if self.address.is_unix and not self._is_made:
            places.check_access(self.address)
        if not self._is_trusted:
            tls.check(self.address, self._credentials, timeout_s=_MOST_HANDSHAKE_S)
            self._is_trusted = True
        if not self._is_made and isinstance(self._error, UnavailableError):
            tls.check_plain(self.address, self._error, timeout_s=_MOST_HANDSHAKE_S)

    def made(self) -> None:
        """The daemon has answered."""
        if not self._is_made:
            self._is_made = True
            self._is_over.set()

    def failed(self, error: CkptdError, *, of_call: bool = False) -> None:
        """An attempt has failed: `error` is what the user is told, unless the daemon has answered with it.

        `of_call`: a call ended with it, and not what comes before one.
        """
        if error.is_answer or (of_call and not isinstance(error, UnavailableError)):
            self.made()
            return
        self._error = error
        if isinstance(error, UnavailableError):
            self._is_trusted = not self.address.secure  # after its restart it may have another certificate
        else:
            self._tried_until = 0.0  # nothing tries again

    def given_up(self, error: CkptdError, deadline: Deadline) -> CkptdError:
        """Return `error` as it is raised after `deadline`; without any contact it says for how long it was tried."""
        if self._is_made or not isinstance(error, UnavailableError):
            return error
        never = UnavailableError(f"{error.reason} (tried for {_seconds(deadline.timeout_s)})")
        if why := places.origin(self.address, os.environ):
            never.add_note(why)
        never.may_have_arrived = False
        return never

    def close(self) -> None:
        """Say nothing more."""
        self._is_over.set()

    def _watch(self) -> None:
        """Tell the user, ever more rarely, until there is contact or nothing tries any more."""
        if self._is_over.wait(_LOOK_S):
            return
        with self._following():
            while not self._is_over.wait(max(0.0, self._tried_since + self._next_notice_s - time.monotonic())):
                with self._lock:
                    left_s = self._tried_until - time.monotonic()
                    if left_s <= 0:
                        self._watcher = None
                        return
                    is_first = self._next_notice_s == _FIRST_NOTICE_S
                    self._next_notice_s *= 3
                    tried_s = time.monotonic() - self._tried_since
                most_s = min(FIRST_CONTACT_S, left_s + tried_s)
                trying = f"trying for {_seconds(most_s)}" if is_first else f"trying for {_seconds(left_s)} more"
                _tell(str(self.address), trying, self._error)

    @contextlib.contextmanager
    def _following(self) -> Any:
        """Follow gRPC's connection meanwhile."""
        channel = self._channel
        if channel is None:
            yield
            return
        channel.subscribe(self._hear)
        try:
            yield
        finally:
            channel.unsubscribe(self._hear)

    def _hear(self, state: grpc.ChannelConnectivity) -> None:
        if state is grpc.ChannelConnectivity.READY:
            self.made()


class _UntilContact(Deadline):
    """A deadline that comes sooner while there is no contact."""

    def __init__(self, contact: FirstContact, whole: Deadline) -> None:
        super().__init__(min(FIRST_CONTACT_S, whole.remaining_s))
        self._contact = contact
        self._whole = whole

    @property
    def remaining_s(self) -> float:
        """Seconds left; 0.0 when it has passed."""
        left_s = self._whole.remaining_s
        return left_s if self._contact.is_made else min(left_s, super().remaining_s)


_told_lock = threading.Lock()
_told_at: dict[str, float] = {}


def _tell(address: str, trying: str, error: CkptdError | None) -> None:
    """Write the line, but not for each of many `Checkpointer`s that wait for one daemon at the same time."""
    now = time.monotonic()
    with _told_lock:
        if now - _told_at.get(address, -FIRST_CONTACT_S) < _FIRST_NOTICE_S / 2:
            return
        _told_at[address] = now
    why = "it does not answer" if error is None else str(error)
    if isinstance(error, UnavailableError) and error.no_answer:
        why = error.no_answer  # the line has the address already
    _log.warning("no daemon at %s, %s: %s", address, trying, why)


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1f} s"
