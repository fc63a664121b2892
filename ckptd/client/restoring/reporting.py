"""Readers that report damage: what opens the latest checkpoint and reads it bit by bit cannot go back by itself.

Adapters restore in this way. The owner of the run reads the bytes again and puts the checkpoint in quarantine if they
are damaged, so that the program, started again, finds the newest that verifies.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from ckptd.client.saving.transport import Located, RestoreCall, RunCatalog
from ckptd.engine.reading.bundle import Array, Bundle, Wanted
from ckptd.engine.reading.damage import Suspicion
from ckptd.errors import CkptdError, CorruptionError
from ckptd.storage.base import Objects


class ReportingBundle(Bundle):
    """A checkpoint opened for reading that reports damage to the run's owner. Make one with `open_reporting`."""

    _catalog: RunCatalog
    _located: Located
    _name: str

    def read_many(self, wanted: Iterable[Wanted], *, thorough: bool = False) -> list[Array]:
        """See `Bundle`."""
        try:
            return super().read_many(wanted, thorough=thorough)
        except CorruptionError as error:
            report(error, self._catalog, self._located, self._name)
            raise


def open_reporting(catalog: RunCatalog, located: Located, name: str, objects: Objects) -> Bundle:
    """Open a checkpoint that `name` means; raises as `Bundle.open`."""
    try:
        bundle = ReportingBundle.open(objects, located.key)
    except CorruptionError as error:
        report(error, catalog, located, name)
        raise
    assert isinstance(bundle, ReportingBundle)
    bundle._catalog, bundle._located, bundle._name = catalog, located, name
    return bundle


def report(error: CorruptionError, catalog: RunCatalog, located: Located, name: str) -> None:
    """Have the owner read damage in the latest checkpoint again; a note of the error says what it found."""
    try:
        latest = catalog.latest(name)
        if latest is None or latest.key != located.key:
            return
        verdict = catalog.check_damage(located, Suspicion.of(error), RestoreCall(uuid.uuid4().hex))
    except CkptdError as other:
        error.add_note(f"whether it is damage could not be found out: {other}")
        return
    if verdict is not None and verdict.is_confirmed and verdict.is_listed_no_more:
        error.add_note(
            "the owner of the run has read it again: it is in quarantine now, and the latest is the newest checkpoint "
            "that is whole. Start the program again to go on from there"
        )
