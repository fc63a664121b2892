"""Changing records in a store without locks: only what is known to be there is replaced.

A former owner may hang in the request that changes a record, and wake up when its successor has changed that record as
well. What it then wrote would count: that a save is published, say, which its successor has deleted since. So each
change names the version that it replaces. A request whose answer was lost may have taken effect, now or later: after
it both are expected.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ckptd.engine.catalog import records, reserve
from ckptd.engine.catalog.records import Record
from ckptd.errors import CkptdError, ConflictError
from ckptd.storage.base import Store

_TRIES = 3


@dataclass(frozen=True, slots=True)
class _Known:
    """What a record may be in the store: several if an answer was lost, and then no version is known."""

    records: tuple[Record, ...]
    version: str = ""


class Noted:
    """What the store holds of each record, as far as one owner of a run knows. Not thread-safe."""

    def __init__(self, store: Store) -> None:
        """Know nothing yet."""
        self._store = store
        self._known: dict[str, _Known] = {}  # by save

    def found(self, found: Iterable[Record], versions: Mapping[str, str] | None = None) -> None:
        """Take up what was read just now, with the versions of all keys if these are known."""
        self._known = {each.save_id: _Known((each,), (versions or {}).get(each.key, "")) for each in found}

    def wrote(self, record: Record, version: str = "") -> None:
        """Take up what was written otherwise than by `change`."""
        self._known[record.save_id] = _Known((record,), version)

    def forget(self, save_id: str) -> None:
        """Forget a record that is deleted."""
        self._known.pop(save_id, None)

    def change(self, changed: Record) -> Record:
        """Replace what is known to be there by a changed record, durably; return that.

        Raises:
            ConflictError: another owner has changed it.
            NotFoundError: another owner has deleted it.
        """
        known = self._known.get(changed.save_id, _Known((changed,)))
        found, version = known.records[-1], known.version
        for left in reversed(range(_TRIES)):
            if not version:
                found, version = self._look(known, changed)
            if found == changed:
                break  # as it was, or an earlier try took effect, and its answer was lost
            known = self._known[changed.save_id] = _Known((*known.records, changed))  # unless there is an answer
            try:
                version = reserve.replace(
                    self._store, changed.run, changed.key, changed.encode(), if_version=version
                ).version
                break
            except ConflictError:
                version = ""  # by a request of ours, perhaps, that came late
                if not left:
                    raise
        self._known[changed.save_id] = _Known((changed,), version)
        return changed

    def _look(self, known: _Known, changed: Record) -> tuple[Record, str]:
        # The version first: if it is replaced in between, we hold an old version, and replacing fails.
        version = self._store.stat(changed.key).version
        found = records.read(self._store, changed.key)
        if found not in (*known.records, changed):
            raise ConflictError("another owner of the run has changed this record", key=changed.key)
        return found, version

    def override(self, record: Record) -> None:
        """Take what is there for what is known, whatever it is: the owner has made sure that the run is its own.

        Raises:
            NotFoundError: another owner has deleted it.
        """
        version = self._store.stat(record.key).version
        try:
            found = records.read(self._store, record.key)
        except CkptdError:
            found = record
        self.wrote(found, version)
