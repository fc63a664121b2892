"""The `Checkpointer`s of storage writers: one per run, kept from one save to the next.

Programs that use DCP often create a new writer for every save. A rank that left the run and joined it again each time
would lose its memory, which is allocated and warm, so the Checkpointer stays open until the process ends or a writer is
closed. A process is one rank of a run at a time: a writer with other settings replaces the Checkpointer of its run.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ckptd.client.capture.arrays import Array
from ckptd.client.checkpointer import Checkpointer
from ckptd.client.saving.pending import PendingSave
from ckptd.errors import CkptdError, ConflictError
from ckptd.torch.dcp_place import DcpPath


@dataclass(frozen=True, slots=True)
class CheckpointerKey:
    """The arguments of a Checkpointer."""

    address: str
    run: str
    rank: int
    world_size: int
    options: Mapping[str, Any] = field(default_factory=dict)
    pid: int = field(default_factory=os.getpid)

    def open(self) -> Checkpointer:
        """Return a Checkpointer with these arguments."""
        return Checkpointer(
            self.address,
            self.run,
            rank=self.rank,
            world_size=self.world_size,
            **self.options,
        )


class DcpSession:
    """One Checkpointer, and the state that is staged in its memory. Any thread may use it."""

    def __init__(self, membership: CheckpointerKey) -> None:
        self.membership = membership
        self._checkpointer = membership.open()
        self._lock = threading.Lock()
        self._staged: list[weakref.ref[Array]] = []

    def prepare(self, size_bytes: int) -> None:
        """Allocate memory for saves of this size, in the background."""
        self._checkpointer.prepare({"state": np.broadcast_to(np.uint8(0), (size_bytes,))})

    def stage(self, size_bytes: int) -> Array | None:
        """Return memory to stage the next save in; None while the state staged before may still be saved.

        The caller reports every part of it that it uses to `watch`.
        """
        with self._lock:
            if self.has_staged:
                return None
            block = self._checkpointer.staging("state", (size_bytes,), np.uint8)[:]
            self._staged = [weakref.ref(block)]  # until `watch` is called: no other thread may get it, too
            return block

    def watch(self, views: list[Array]) -> None:
        """Keep the memory of these views from being reused until they are saved or deleted."""
        with self._lock:
            self._staged = [weakref.ref(view) for view in views]

    def save(self, place: DcpPath, parts: Callable[[], Mapping[str, Any]], overwrite: bool) -> PendingSave:
        """Begin a save; the staged memory that it uses belongs to the Checkpointer from now on.

        If `parts` raises, the other ranks get the error at once and need not wait for this one.
        """
        arrays: dict[str, Any] = {}

        def collected() -> Mapping[str, Any]:
            arrays.update(found := parts())
            return found

        pending = self._checkpointer.save(place.step, collected, overwrite=overwrite, name=place.name)
        with self._lock:
            views = [view for ref in self._staged if (view := ref()) is not None]
            if views and not _addresses(arrays).isdisjoint(_address(view) for view in views if view.size):
                self._staged = []
        return pending

    @property
    def has_staged(self) -> bool:
        """Whether staged memory that was not saved is still referenced."""
        return any(ref() is not None for ref in self._staged)

    def close(self) -> None:
        """Wait for pending saves and leave the run."""
        self._checkpointer.close()


def _addresses(arrays: Mapping[str, Any]) -> set[int]:
    parts = [part for value in arrays.values() for part in (value if isinstance(value, list) else [value])]
    values = [getattr(part, "part", part) for part in parts]
    return {_address(one) for one in values if isinstance(one, np.ndarray)}


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


_LOCK = threading.Lock()
_OPEN: dict[tuple[str, str], DcpSession] = {}


def session_for(membership: CheckpointerKey) -> DcpSession:
    """Return this process's session of a run; a session with other arguments is closed.

    Raises:
        ConflictError: state was staged for another rank or world size, and is not saved yet.
    """
    key = membership.address, membership.run
    with _LOCK:
        known = _OPEN.get(key)
        if known is not None and known.membership == membership:
            return known
        if known is not None and known.membership.pid == membership.pid:
            if known.has_staged:
                raise ConflictError(
                    "the state was staged as one rank and is saved as another: pass dcp.async_save a DefaultStager",
                    expected=f"rank {known.membership.rank} of {known.membership.world_size}",
                    actual=f"rank {membership.rank} of {membership.world_size}",
                )
            known.close()
        _OPEN.pop(key, None)
        session = _OPEN[key] = DcpSession(membership)
        return session


def close_session(address: str, run: str) -> None:
    """Leave a run, if this process is in it."""
    with _LOCK:
        session = _OPEN.pop((address, run), None)
    if session is not None and session.membership.pid == os.getpid():
        session.close()


@atexit.register
def close_all() -> None:
    """Leave every run. Called at the end of the process."""
    for address, run in list(_OPEN):
        with contextlib.suppress(CkptdError):  # the caller that waits gets the error
            close_session(address, run)
