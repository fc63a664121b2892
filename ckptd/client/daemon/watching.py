"""Watching through a daemon: one stream at a time, begun anew wherever it broke, and a mailbox with room for one.

A thread takes from the stream whatever comes, so that a slow reader finds the newest checkpoint waiting and not all
those that were published meanwhile, of which retention has deleted some already.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import grpc

from ckptd.client.daemon.contact import FirstContact
from ckptd.client.deadline import Backoff, Deadline
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.series import name_of
from ckptd.errors import CkptdError, UnavailableError
from ckptd.format.names import ANY_NAME, DEFAULT_NAME
from ckptd.watch.news import News
from ckptd.wire import addresses, convert, status

_STEADY_S = 10.0  # a stream that lasted so long was no failed attempt
_JOIN_S = 5.0


class DaemonWatch:
    """News of one run from a daemon. Nothing happens before the first `next`."""

    def __init__(
        self,
        open_stream: Callable[[str], Any],
        *,
        address: str,
        timeout_s: float,
        contact: FirstContact | None = None,
        name: str = ANY_NAME,
    ) -> None:
        """Describe it.

        Args:
            open_stream: begins a `Watch` call; it is given the save that is known already.
            address: of the daemon, for messages.
            timeout_s: how long the daemon may be away.
            contact: with the daemon; default: none yet.
            name: of the checkpoints that are wanted, see `ckptd.engine.series`; an older daemon tells of all.
        """
        self._open_stream = open_stream
        self._address = address
        self._timeout_s = timeout_s
        self._contact = contact or FirstContact(addresses.parse(address))
        self._name = name
        self._news = News()
        self._lock = threading.RLock()  # entered itself: Ctrl-C may come as a condition is entered, which is Python
        self._changed = threading.Condition(self._lock)
        self.waiting: Checkpoint | None = None
        self._error: CkptdError | None = None
        self._call: Any = None
        self._is_closed = threading.Event()
        self._thread: threading.Thread | None = None

    def next(self, timeout_s: float | None = None) -> Checkpoint | None:
        """See `Source`. Raises `UnavailableError` once the daemon was away for as long as it may be."""
        with self._lock:
            if self._thread is None and not self._is_closed.is_set():
                self._thread = threading.Thread(target=self._run, name="ckptd-watch", daemon=True)
                self._thread.start()
            self._changed.wait_for(lambda: self.waiting or self._error or self._is_closed.is_set(), timeout_s)
            checkpoint, self.waiting = self.waiting, None
            if self._is_closed.is_set():
                return None
            if checkpoint is None and self._error is not None:
                raise self._error
            return checkpoint

    def close(self) -> None:
        """See `Source`."""
        with self._lock:
            self._is_closed.set()
            self._changed.notify_all()
            call, thread = self._call, self._thread
        if call is not None:
            call.cancel()
        if thread is not None:
            thread.join(_JOIN_S)

    def _run(self) -> None:
        try:
            self._follow()
        except CkptdError as error:
            self._end(error)
        except Exception as failure:  # it has to reach the waiting thread
            bug = CkptdError(f"a bug in ckptd ended a watch: {failure!r}")
            bug.__cause__ = failure
            self._end(bug)

    def _end(self, error: CkptdError) -> None:
        with self._lock:
            self._error = error
            self._changed.notify_all()

    def _follow(self) -> None:
        """Take from one stream after the other; raise what no other stream can help against."""
        backoff, patience = Backoff(), self._patience()
        while not self._is_closed.is_set():
            began_s = time.monotonic()
            error, has_told = self._take_from_one()
            if self._is_closed.is_set():
                return
            if not error.retryable:
                raise error
            if has_told or time.monotonic() - began_s > _STEADY_S:
                backoff, patience = Backoff(), self._patience()
            pause_s = backoff.next_s(patience)
            if patience.remaining_s <= pause_s:
                raise self._contact.given_up(error, patience) from None
            self._is_closed.wait(pause_s)

    def _patience(self) -> Deadline:
        """Begin to wait for a daemon that is away."""
        return self._contact.bounded(Deadline(self._timeout_s))

    def _take_from_one(self) -> tuple[CkptdError, bool]:
        """Take from one stream until it ends; return why it did, and whether it has told anything."""
        has_told = False
        try:
            self._contact.check()
        except CkptdError as refused:
            self._contact.failed(refused)
            return refused, has_told
        call = self._open_stream(self._news.last_save_id)
        with self._lock:
            self._call = call
        try:
            if not self._is_closed.is_set():  # else `close` may not have seen this call
                for event in call:
                    self._contact.made()
                    # The first event may be the newest that there was; each one after it was published later.
                    is_next = has_told or event.published
                    self._hear(convert.checkpoint_from_wire(event.checkpoint), is_next=is_next)
                    has_told = True
        except grpc.RpcError as failure:
            error = status.from_wire(failure, address=self._address)
            self._contact.failed(error, of_call=True)
            return error, has_told
        finally:
            call.cancel()
        return UnavailableError(f"the daemon at {self._address} ended the connection"), has_told

    def _hear(self, checkpoint: Checkpoint, *, is_next: bool) -> None:
        if self._name not in (ANY_NAME, DEFAULT_NAME, name_of(checkpoint)):
            return
        with self._lock:
            if self._news.accept(checkpoint, is_next=is_next):
                self.waiting = checkpoint
                self._changed.notify_all()
