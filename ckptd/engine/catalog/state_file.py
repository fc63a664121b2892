"""A run's state file as its owner holds it: read, written, and, where the store has no locks, kept from others."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from ckptd.engine.catalog import commit as durable
from ckptd.engine.catalog import listed, records
from ckptd.engine.catalog.commit import OnStep, SeenState
from ckptd.engine.catalog.fence import Fence, Life, Signature, signature_of, signed_by, unsigned
from ckptd.engine.clock import Clock
from ckptd.errors import ConflictError, CorruptionError, NotFoundError, UnavailableError
from ckptd.storage.base import Store
from ckptd.storage.keys import join

_GRAIN_S = 5.0  # a store's clock shows whole seconds, and what a request returns may be off by two
_OF_CHECKPOINTS = (".index", ".meta")  # those of their files that are ever replaced
_MOST_ATTEMPTS = 10  # at a state file that others take over again and again


def can_be_state(key: str, read: Callable[[], bytes]) -> bool:
    """Say whether what `read` returns can be the content of the object `key`, as far as state files are concerned.

    Other objects, which the records and the suffixes of a checkpoint tell from them, are not read.
    """
    if records.DIRECTORY in key.split("/") or key.endswith(_OF_CHECKPOINTS):
        return True
    try:
        listed.decode_state(read(), key)
    except CorruptionError:
        return False
    return True


class StateFile:
    """One state file of one owner; see `ckptd.engine.catalog.fence`. Not thread-safe.

    In a store with locks it is just a file: the lock keeps others out.
    """

    def __init__(
        self, store: Store, key: str, *, holder: str, clock: Clock, on_step: OnStep, life: Life | None = None
    ) -> None:
        """Know nothing yet: `read` looks. With `life`, what was taken over from that daemon is not taken back."""
        self.key = key
        self._store = store
        self._clock = clock
        self._on_step = on_step
        self._seen = SeenState()
        self._me = signed_by(life, holder)
        self._life = life
        self._num_writes = 0
        self._is_mine = False
        self._confirmed_at = 0.0
        self._fenced_by: Signature | None = None
        directory, _, name = key.rpartition("/")
        self._fence = Fence(store, join(directory, f"{records.DIRECTORY}/{name}.fence"), on_step)

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
        """Whether another owner has taken the run over. That is final: only a new owner may try again."""
        return self._fenced_by is not None

    @property
    def other_owner(self) -> str:
        """The owner that has taken the run over, in words; "" while it is ours."""
        return "" if self._fenced_by is None else self._fenced_by.holder or self._fenced_by.owner

    @property
    def keeps_others_out(self) -> bool:
        """Whether no former owner of the run can publish any more, also not by a request that is on its way.

        Without a state file such a request could still be the first to publish.
        """
        return self._store.has_locks or self._seen.data is not None

    def read(self, seen: SeenState | None = None) -> bytes | None:
        """Read it again, and, in a store without locks, take the run over from its former owner.

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
            if self._take_fence() if self._seen.data is None else self._take_state(self._seen.data):
                self._is_mine, self._confirmed_at = True, self._clock.boot_s()
                return self._seen.data
        raise UnavailableError("other programs keep changing the state file", key=self.key)

    def _take_state(self, state: bytes) -> bool:
        """Let the state file name us, unless it does; False when it has to be read again."""
        signature = signature_of(state)
        if signature is not None and signature.owner == self._me.owner:
            return True
        if signature is not None and self._is_mine:
            self._fenced_by = signature
            return False
        listed.decode_state(state, self.key)
        self._check_life(self.key, signature)
        self._begin_term(signature)
        try:
            # Crash here: its former owner still owns it.
            self._on_step("fence.state")
            self._put(unsigned(state), "" if signature is None else signature.save)
        except ConflictError:
            return False
        return True

    def _take_fence(self) -> bool:
        """Let the fence name us, unless it does, where there is no state file; False when all has to be read again."""
        signature = self._fence.look()
        if signature is not None and signature.owner == self._me.owner:
            return True
        if signature is not None and self._is_mine and signature.term >= self._me.term:
            self._fenced_by = signature
            return False
        self._check_life(self._fence.key, signature)
        self._begin_term(signature)
        # Crash here: its former owner still owns it.
        if not self._fence.write(self._me):
            return False
        self._seen = durable.look(self._store, self.key)
        return self._seen.data is None  # else a former owner was about to publish: that state file is to be taken over

    def _check_life(self, key: str, signature: Signature | None) -> None:
        """Raise `ConflictError` when another owner has signed what is at `key` since this life began."""
        if self._life is None or signature is None or self._life.is_of(signature) or self._life.follows(signature):
            return
        with suppress(NotFoundError):
            if self._store.stat(key).modified_at > self._life.began_at + _GRAIN_S:
                self._fenced_by = signature
        self._check_fence()

    def _begin_term(self, former: Signature | None) -> None:
        """Begin a term above all known ones. The clock puts it above terms whose records are lost, too."""
        if not self._me.term:
            term = max(int(self._clock.wall_s()), 1, 0 if former is None else former.term + 1)
            self._me = replace(self._me, term=term)

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
            state += replace(self._me, write=self._num_writes, save=save_id).encode()
        self._seen = durable.publish(self._store, self.key, state, self._seen, self._on_step)
        self._confirmed_at = self._clock.boot_s()

    def delete(self) -> None:
        """Delete it, durably: it lists nothing any more. In a store without locks the run stays ours.

        Raises:
            ConflictError: when it was changed by a person, or taken over by another owner.
        """
        if not self.confirm():
            raise ConflictError("the state file was changed by another program", key=self.key)
        if self._store.has_locks:
            self._store.delete([self.key])
        elif self._seen.data is not None:
            # Crash here: the state file is there, and is the fence.
            former = self._fence.look()
            if former is not None and former.term >= self._me.term:
                self._me = replace(self._me, term=former.term + 1)
            if not self._fence.write(self._me):
                self._look_for_owner()
                raise ConflictError("another owner changed the fence of this run", key=self._fence.key)
            try:
                self._store.delete([self.key], if_version=self._seen.version)
            except ConflictError:
                self._look_for_owner()
                if durable.look(self._store, self.key).data is not None:
                    raise
                # The answer to the first request was lost, and the second found nothing to delete.
        self._seen = SeenState()

    def confirm(self, max_age_s: float = 0.0) -> bool:
        """Make sure that it is still ours, unless that was so not longer ago than this; False when it was changed.

        With 0 it is looked at in any case.

        Raises:
            ConflictError: when another owner has taken it over.
        """
        self._check_fence()
        if self._store.has_locks or (max_age_s and self._clock.boot_s() - self._confirmed_at <= max_age_s):
            return True
        if not self._is_as_seen():
            self._look_for_owner()
            return False
        self._confirmed_at = self._clock.boot_s()
        return True

    def _is_as_seen(self) -> bool:
        try:
            version: str | None = self._store.stat(self.key).version
        except NotFoundError:
            version = None
        if version is not None or self._seen.version is not None:
            return version == self._seen.version
        signature = self._fence.look()
        return signature is not None and signature.owner == self._me.owner

    def _look_for_owner(self) -> None:
        state = durable.look(self._store, self.key).data
        signature = self._fence.look() if state is None else signature_of(state)
        is_other = signature is not None and signature.owner != self._me.owner
        # A fence of a lower term was left by an owner before us, and since then a person has deleted the state file.
        if is_other and signature is not None and (state is not None or signature.term >= self._me.term):
            self._fenced_by = signature
        self._check_fence()

    def _check_fence(self) -> None:
        if self._fenced_by is not None:
            raise ConflictError(
                "this run was taken over by another owner; this process may not change it until it is restarted",
                key=self.key,
                actual=self.other_owner,
            )
