"""A run's state file as its owner holds it: read, written, and, where the store has no locks, kept from others."""

from __future__ import annotations

import secrets

from ckptd.engine import commit as durable
from ckptd.engine import listed
from ckptd.engine.clock import Clock
from ckptd.engine.commit import OnStep, SeenState
from ckptd.engine.fence import Signature, signature_of, unsigned
from ckptd.errors import ConflictError, NotFoundError, UnavailableError
from ckptd.storage.base import Store

_MOST_ATTEMPTS = 10  # at a state file that others take over again and again


class StateFile:
    """One state file of one owner; see `ckptd.engine.fence`. Not thread-safe.

    In a store with locks it is just a file: the lock keeps others out.
    """

    def __init__(self, store: Store, key: str, *, holder: str, clock: Clock, on_step: OnStep) -> None:
        """Know nothing yet: `read` looks."""
        self.key = key
        self._store = store
        self._clock = clock
        self._on_step = on_step
        self._seen = SeenState()
        self._me = Signature(secrets.token_hex(16), holder)
        self._num_writes = 0
        self._is_mine = False
        self._confirmed_at = 0.0
        self._fenced_by: Signature | None = None

    @property
    def data(self) -> bytes | None:
        """Its bytes as last seen, None when there was none."""
        return self._seen.data

    @property
    def version(self) -> str | None:
        """Its version as last seen, None when there was none."""
        return self._seen.version

    @property
    def is_fenced(self) -> bool:
        """Whether somebody else has taken the run over. That is for good: only a new owner may try anew."""
        return self._fenced_by is not None

    @property
    def keeps_others_out(self) -> bool:
        """Whether nobody who owned the run before can publish any more.

        Without a state file there is nothing to take over: then somebody else may still be the first to publish.
        """
        return self._store.has_locks or self._seen.data is not None

    def read(self, seen: SeenState | None = None) -> bytes | None:
        """Look anew, and, in a store without locks, take it over from whoever owned it before we came.

        With `seen` the caller has looked already.

        Raises:
            ConflictError: when it was taken over from us.
            CorruptionError: when it is no state file; it stays as it is.
        """
        if self._store.has_locks:
            self._seen = durable.look(self._store, self.key)
            return self._seen.data
        for _ in range(_MOST_ATTEMPTS):
            self._check_fence()
            self._seen, seen = seen or durable.look(self._store, self.key), None
            signature = signature_of(self._seen.data)
            if self._seen.data is not None and (signature is None or signature.owner != self._me.owner):
                if signature is not None and self._is_mine:
                    self._fenced_by = signature
                    continue
                listed.decode_state(self._seen.data, self.key)
                try:
                    # Crash here: whoever owned it before still does.
                    self._on_step("fence.state")
                    self._put(unsigned(self._seen.data), "" if signature is None else signature.save)
                except ConflictError:
                    continue
            self._is_mine, self._confirmed_at = True, self._clock.boot_s()
            return self._seen.data
        raise UnavailableError("others change the state file all the time", key=self.key)

    def write(self, state: bytes, save_id: str = "") -> None:
        """Let it say `state`; durable on return. `save_id` is the save that this publishes.

        Raises:
            ConflictError: when it is not as we have seen it: changed by a person, or taken over by another owner.
        """
        self._check_fence()
        try:
            self._put(state, save_id)
        except ConflictError:
            if not self._store.has_locks:
                self._look_for_owner()
            raise

    def _put(self, state: bytes, save_id: str) -> None:
        if not self._store.has_locks:
            self._num_writes += 1
            state += Signature(self._me.owner, self._me.holder, self._num_writes, save_id).encode()
        self._seen = durable.publish(self._store, self.key, state, self._seen, self._on_step)
        self._confirmed_at = self._clock.boot_s()

    def delete(self) -> None:
        """Delete it, durably: it lists nothing any more."""
        if not self.confirm():
            raise ConflictError("the state file was changed by someone else", key=self.key)
        self._store.delete([self.key])
        self._seen = SeenState()

    def confirm(self, max_age_s: float = 0.0) -> bool:
        """Make sure that it is still ours, unless that was so not longer ago than this; False when it was changed.

        Raises:
            ConflictError: when another owner has taken it over.
        """
        self._check_fence()
        if self._store.has_locks or self._clock.boot_s() - self._confirmed_at <= max_age_s:
            return True
        try:
            version: str | None = self._store.stat(self.key).version
        except NotFoundError:
            version = None
        if version != self._seen.version:
            self._look_for_owner()
            return False
        self._confirmed_at = self._clock.boot_s()
        return True

    def _look_for_owner(self) -> None:
        signature = signature_of(durable.look(self._store, self.key).data)
        if signature is not None and signature.owner != self._me.owner:
            self._fenced_by = signature
        self._check_fence()

    def _check_fence(self) -> None:
        if self._fenced_by is not None:
            raise ConflictError(
                "this run was taken over by another owner; this one may change nothing more until it is started anew",
                key=self.key,
                actual=self._fenced_by.holder or self._fenced_by.owner,
            )
