"""The note of a run at rest: what a bucket holds of it, in one object, so that opening it again takes three requests.

A run in a bucket is read object by object, each for the time of a journey. When nothing is under way in it, and nothing
is left to be done, its owner notes the records, the state file, the epoch, and the version of every object. What opens
the run lists it, reads the note, and takes it over. If any object is another than the note says, or one is missing or
new, the note counts for nothing, and the run is recovered from its objects as ever.

On a disk there is none: looking costs little there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

from ckptd.engine.catalog import past_saves
from ckptd.engine.catalog.epochs import MAX_EPOCH
from ckptd.engine.catalog.records import DIRECTORY, Record
from ckptd.errors import CorruptionError, NotFoundError
from ckptd.storage.base import Store
from ckptd.storage.keys import join

_NAME = ".ckptd/at-rest"  # not `.json`: it is no record
_FORMAT = 1
_MAX_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class RestNote:
    """What a run at rest consists of.

    Attributes:
        versions: of every object below the run but this note, by key.
        state_key, state: the state file, as it is with its owner's line.
        epoch: that the run has reached.
        records: of all its saves; every one is published.
    """

    versions: Mapping[str, str]
    state_key: str
    state: bytes
    epoch: int
    records: tuple[Record, ...]

    def encode(self) -> bytes:
        """Return the note as one JSON object."""
        fields = {
            "format": _FORMAT,
            "versions": dict(self.versions),
            "state_key": self.state_key,
            "state": self.state.decode("utf-8"),
            "epoch": self.epoch,
            "records": {record.key: record.encode().decode() for record in self.records},
        }
        return (json.dumps(fields, sort_keys=True) + "\n").encode()

    @classmethod
    def decode(cls, data: bytes, key: str) -> RestNote:
        """Read a note.

        Raises:
            CorruptionError: if it is none.
        """
        try:
            fields = json.loads(data)
            if fields["format"] != _FORMAT:
                raise CorruptionError("a note of a format that this release cannot read", key=key)
            if not 0 <= int(fields["epoch"]) < MAX_EPOCH:
                raise CorruptionError("a note of an epoch that is none", key=key)
            found = {key: Record.decode(text.encode(), key) for key, text in fields["records"].items()}
            return cls(
                cast("dict[str, str]", dict(fields["versions"])),
                str(fields["state_key"]),
                fields["state"].encode("utf-8"),
                int(fields["epoch"]),
                tuple(found.values()),
            )
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise CorruptionError("this is not the note of an idle run", key=key) from error


def versions_of(store: Store, run: str) -> dict[str, str]:
    """Return the version of every object below a run, by key, but of its history."""
    history = past_saves.key_of(run)  # changes without regard to what is at rest
    return {stat.key: stat.version for stat in store.list(run) if stat.key != history}


def load(store: Store, run: str, versions: Mapping[str, str]) -> RestNote | None:
    """Return the note of a run whose objects have these `versions`, None when there is none that fits them."""
    key = join(run, _NAME)
    if key not in versions:
        return None
    try:
        note = RestNote.decode(store.get(key, limit_bytes=_MAX_BYTES), key)
    except (CorruptionError, NotFoundError):
        return None
    fits = note.versions == {each: version for each, version in versions.items() if each != key}
    return note if fits and note.state_key in note.versions else None


def keep(store: Store, run: str, state_version: str | None, note: RestNote) -> bool:
    """Note that a run is at rest, durably, if its state file is still the one of this version; return whether it is.

    `note` is completed with the versions of what is there.
    """
    key = join(run, _NAME)
    versions = versions_of(store, run)
    versions.pop(key, None)
    if state_version is None or versions.get(note.state_key) != state_version:
        return False
    found = {each for each in versions if each.startswith(join(run, DIRECTORY)) and each.endswith(".json")}
    if found != {record.key for record in note.records}:
        return False  # one that cannot be read, or another owner's
    data = replace(note, versions=versions).encode()
    if len(data) > _MAX_BYTES:
        return False
    store.replace(key, data)
    return True
