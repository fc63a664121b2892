"""Which checkpoints a run has, as its owner knows them: nothing here reads the store."""

from __future__ import annotations

from collections.abc import Sequence

from ckptd.engine import series
from ckptd.engine.catalog import quarantine, survey
from ckptd.engine.catalog.ledger import Ledger
from ckptd.engine.catalog.listing import ListedEntry
from ckptd.engine.catalog.publishing import Publishing
from ckptd.engine.catalog.records import Record
from ckptd.engine.checkpoint import Checkpoint
from ckptd.errors import InvalidRequestError, NotFoundError
from ckptd.format import names

CheckpointSelector = int | str | series.NamedStep
"""Which checkpoint of a run: the newest of a step whatever its name, the one of a prefix, or the step of a name."""


def describe(which: CheckpointSelector) -> str:
    """Name a checkpoint for people."""
    if isinstance(which, int):
        return f"step {which}"
    return repr(which) if isinstance(which, str) else str(which)


class Contents:
    """The checkpoints of a run, from memory."""

    def __init__(self, ledger: Ledger, publishing: Publishing) -> None:
        """Look at a ledger, and at what is published and not yet noted."""
        self._ledger, self._publishing = ledger, publishing

    def highest_epoch(self) -> int:
        """Return the highest epoch that a save of the run began under, 0 if there is no trace of any."""
        return max((record.epoch for record in self._ledger.records.values()), default=0)

    def latest(self, name: str = names.ANY_NAME) -> Checkpoint | None:
        """Return the newest complete checkpoint that `name` means, None if there is none; see `series`."""
        return series.latest_of(name, self.listed(), self.forgotten())

    def listed(self) -> list[Checkpoint]:
        """Return the complete checkpoints of this store that the state file lists, oldest first, the latest last.

        If there is a state file, but nothing that it lists is here, the newest that is kept for good stands for them.
        """
        here = self._ledger.listing.here
        if not here and self._ledger.state.data is not None:
            here = self._unlisted()[-1:]
        return [entry.checkpoint for entry in here]

    def forgotten(self) -> list[Checkpoint]:
        """Return those that the state file listed once, oldest first: a Saver without limit lists the latest only."""
        return [each.checkpoint for each in self._unlisted() if each.record and each.record.write_state]

    def checkpoints(self) -> list[Checkpoint]:
        """Return all checkpoints, oldest first, those as well that left the list but are kept for good."""
        return [entry.checkpoint for entry in self._ledger.listing.with_unlisted(self._unlisted())]

    def stored_bytes(self) -> int:
        """Return how much is stored of the run: what is in quarantine, or can be undeleted, counts, too."""
        besides = [each for each in self._ledger.records.values() if each.quarantine or each.deleted_at is not None]
        return sum(each.size_bytes for each in self.checkpoints()) + sum(each.size_bytes for each in besides)

    def _unlisted(self) -> list[ListedEntry]:
        return self._ledger.unlisted(self._publishing.leaving())

    def find(self, which: CheckpointSelector) -> Checkpoint:
        """Return the newest checkpoint of a step, or the one with this prefix, whole or as the run knows it.

        One in quarantine is found too, if there is no other: to be deleted, or pinned.

        Raises:
            NotFoundError: when there is none.
            InvalidRequestError: when there are several of the usual name's step, none of which has that name.
        """
        whole = self.checkpoints()
        marked = [survey.checkpoint_of(self._ledger.store, record) for record in quarantine.quarantined(self._ledger)]
        for found in (whole, [*whole, *marked]):
            match which:
                case str():
                    meant = [each for each in found if which in (each.prefix, each.prefix.rpartition("/")[2])]
                case int():
                    meant = [each for each in found if each.step == which]
                case series.NamedStep(name, step):
                    of_name = series.of_name(found, name, checkpoint_of=lambda it: it)
                    meant = [each for each in of_name if each.step == step]
                    _check_one_name(which, meant)
            if meant:
                return meant[-1]
        raise NotFoundError(f"there is no checkpoint of {describe(which)} in this run", key=self._ledger.run or None)

    def record_of(self, save_id: str) -> Record | None:
        """Return the record of a published save that is not being deleted, None if there is none."""
        record = self._ledger.records.get(save_id)
        return record if record is not None and record.published and not record.dropped else None

    def quarantined(self) -> list[Record]:
        """Return the records of what is in quarantine, in the order in which the saves began."""
        return quarantine.quarantined(self._ledger)


def _check_one_name(which: series.NamedStep, found: Sequence[Checkpoint]) -> None:
    """Refuse to guess: a program that names nothing may mean whatever is there, but not one of several."""
    called = sorted({series.name_of(each) for each in found})
    if which.name != names.ANY_NAME and len(called) > 1:
        raise InvalidRequestError(f"step {which.step} exists under several names: {', '.join(called)}; pass name=")
