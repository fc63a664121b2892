"""A save that is captured into an arena: the capturing thread tells the daemon that it is sealed, summed or dropped."""

from __future__ import annotations

import contextlib
import logging
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from ckptd.client.daemon.arena_link import ArenaAnswer, ArenaLink, settled
from ckptd.client.deadline import Deadline
from ckptd.engine.identity import Declaration
from ckptd.engine.lanes.capture import Capture
from ckptd.errors import CkptdError
from ckptd.latch import Latch
from ckptd.wire.v1 import arena_pb2

_log = logging.getLogger("ckptd.client")


class ArenaHandover:
    """One save that is captured into an arena while the daemon follows."""

    capture: Capture | None = None  # it has that

    def __init__(self, link: ArenaLink, declaration: Declaration, begun: Future[ArenaAnswer]) -> None:
        self._link = link
        self._declaration = declaration
        self._begun = begun
        self._is_over = Latch()  # there is nothing more to send

    def seal(self, sums: NDArray[np.uint32] | None) -> None:
        """See `Handover`."""
        seal = arena_pb2.ArenaSeal(request_id=self._declaration.request_id, sums_follow=sums is None)
        if sums is not None:
            seal.crcs = np.ascontiguousarray(sums, "<u4").tobytes()
        with contextlib.suppress(CkptdError):  # the daemon is gone: its successor is sent the bytes
            self._link.send(arena_pb2.ArenaRequest(seal=seal))
        if sums is not None:
            self._is_over.set()

    def give_sums(self, sums: NDArray[np.uint32]) -> None:
        """See `Handover`."""
        packed = np.ascontiguousarray(sums, "<u4").tobytes()
        request = arena_pb2.ArenaSums(request_id=self._declaration.request_id, crcs=packed)
        with contextlib.suppress(CkptdError):
            self._link.send(arena_pb2.ArenaRequest(sums=request))
        self._is_over.set()

    def drop(self, reason: str) -> None:
        """Say that it will not be finished."""
        drop(self._link, self._declaration.request_id, reason)
        self._is_over.set()

    def wait(self, deadline: Deadline, *, until_summed: bool) -> Declaration | None:
        """Wait until the daemon has said whether it takes the bytes from memory; if so, until all is transferred.

        The latter with `until_summed` only. Whatever is said to the daemon while a rank still copies takes time from
        copies that training waits for, other ranks' too.
        """
        try:
            settled(self._begun, deadline.remaining_s)
        except CkptdError as error:
            _log.debug("a save is sent, as the daemon does not take it from memory: %s", error)
            self._link.known.discard(self._declaration.manifest_digest)
            return None
        self._link.known.add(self._declaration.manifest_digest)
        if until_summed:
            self._is_over.wait(deadline.remaining_s)
        return self._declaration


def drop(link: ArenaLink, request_id: str, reason: str) -> None:
    """Say that a save will not be finished, if the daemon has heard of it."""
    with contextlib.suppress(CkptdError):
        link.send(arena_pb2.ArenaRequest(drop=arena_pb2.ArenaDrop(request_id=request_id, reason=reason)))
