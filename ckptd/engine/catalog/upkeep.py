"""Keeping what a catalog knows in step with its run, and with what its trainer requests of retention."""

from __future__ import annotations

from collections.abc import Collection

from ckptd.engine.catalog import rest
from ckptd.engine.catalog.ledger import CONFIRMED_FOR_S, Ledger
from ckptd.engine.catalog.publishing import Publishing
from ckptd.engine.catalog.recoverer import Recoverer
from ckptd.engine.catalog.recovery import Recovery
from ckptd.engine.catalog.rest import RestNote
from ckptd.engine.catalog.retention import RetentionPolicy
from ckptd.engine.catalog.sequences import Sequences
from ckptd.errors import StorageFullError


class Upkeep:
    """What a catalog reads again when memory and store may differ, and the retention policy that it follows then.

    Attributes:
        policy: what retention keeps, and by which rule.
        mark: until when the retention rule has decided about every-so-many-hours.
        relative_paths: whether the state file names checkpoints relative to itself, or by their locations.
        sequences: numbers the saves that begin.
    """

    def __init__(
        self,
        ledger: Ledger,
        publishing: Publishing,
        recoverer: Recoverer,
        policy: RetentionPolicy | None,
        relative_paths: bool,
    ) -> None:
        """Start the retention rule's clock; nothing is read yet. `policy` None: as the last save noted it."""
        self._ledger, self._publishing, self._recoverer = ledger, publishing, recoverer
        self.policy = policy or RetentionPolicy()
        self.relative_paths = relative_paths
        self.mark = ledger.clock.wall_s() + self.policy.interval_s
        self._is_policy_given = policy is not None
        self._hours_since: float | None = None
        self.sequences = Sequences()

    # The policy

    def follow(
        self, policy: RetentionPolicy, latest_filename: str, relative_paths: bool, hours_since: float | None
    ) -> None:
        """Follow what a trainer requests; as with a new Saver or manager, the retention rule starts over."""
        ledger = self._ledger
        if latest_filename != ledger.latest_filename:
            self._publishing.settle(None)
            ledger.use(latest_filename)
        self.policy, self.relative_paths = policy, relative_paths
        self._is_policy_given = True
        self.mark = ledger.clock.wall_s() + policy.interval_s
        self._hours_since = hours_since
        if not ledger.is_stale:
            self._take_over()

    def _take_over(self) -> None:
        mark = self._ledger.take_over(self.policy, self._hours_since)
        self.mark = self.mark if mark is None else mark

    # Reading the run again

    def recover(self, in_use: Collection[str] | None = ()) -> Recovery:
        """Read the run again and finish whatever a crash interrupted. Safe to repeat, and to crash in.

        Living saves of this catalog are left alone.

        Args:
            in_use: the prefixes that are being read. None when that is not known: then nothing that retention no
                longer keeps is deleted, only marked.

        Raises:
            CorruptionError: for a state file that cannot be read as one: its history must not silently become empty.
        """
        done = self._recoverer.recover(in_use)
        self._begin_anew()
        return done

    def resume(self, note: RestNote) -> bool:
        """Take the run over at rest, in place of `recover`; False when it is not as `note` says."""
        if not self._recoverer.resume(note):
            return False
        self._begin_anew()
        return True

    def _begin_anew(self) -> None:
        if not self._is_policy_given:
            # A default must not decide about checkpoints whose trainer said otherwise, and has not come back yet.
            self.policy = self._ledger.last_policy()
        self._take_over()
        self.sequences.go_on_after(max((record.sequence for record in self._ledger.records.values()), default=0))

    def take_in_late(self, in_use: Collection[str]) -> bool:
        """Look, if it is time, for saves that a former owner noted late; if there are any, do as `recover`."""
        are_any = self._recoverer.late.look()
        if are_any:
            self._publishing.settle(in_use)  # what is published and not noted yet would be taken for as undecided
            self.recover(in_use)
        return are_any

    @property
    def unfinished(self) -> StorageFullError | None:
        """Why `recover` could not note all that it found; None when it has."""
        return self._recoverer.unfinished

    def keep_rest_note(self, epoch: int) -> bool:
        """Note durably that the run is at rest, if it is; return whether that is noted now."""
        ledger, note = self._ledger, self._recoverer.rest_note(epoch)
        if note is None:
            return False
        ledger.confirm_root()
        return rest.keep(ledger.store, ledger.run, ledger.state.version, note)

    # Ownership

    def confirm(self, max_age_s: float = CONFIRMED_FOR_S) -> None:
        """Make sure that the run is still ours, in a store where nothing keeps others out; elsewhere it is.

        Raises:
            ConflictError: when another owner has taken it over.
        """
        if not self._ledger.state.confirm(max_age_s):
            self._ledger.is_stale = True  # a person has edited the state file

    @property
    def is_fenced(self) -> bool:
        """Whether another owner has taken the run over; then nothing can be changed by this one any more."""
        return self._ledger.state.is_fenced

    @property
    def other_owner(self) -> str:
        """The owner that has taken the run over, in words; "" while it is ours."""
        return self._ledger.state.other_owner

    def refresh(self, max_age_s: float = CONFIRMED_FOR_S) -> None:
        """Read the run again if memory and store may differ; make sure that it is ours, as `confirm` does."""
        self.confirm(max_age_s)
        if self._ledger.is_stale:
            self.recover(None)
