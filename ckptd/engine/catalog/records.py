"""What we note about each of our saves before its first byte: the proof of what is ours.

A record is at ``RUN/.ckptd/PREFIX.SAVE_ID.json``. Retention and recovery delete nothing without one: an index
that no record belongs to was written by another program and is never touched; shards without an index are swept only
if the record of an unpublished save names them.

It can tell attempts apart because no two attempts of one step have the same number of shards M: M is chosen fresh,
so all shard keys of an attempt are new, and the number of shards that an index in place records says whose it is.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace

from ckptd.engine.catalog import reserve
from ckptd.engine.catalog.lookalikes import is_left_beside
from ckptd.engine.catalog.presence import NO_FILE, is_taken
from ckptd.engine.catalog.retention import RetentionPolicy, Rule
from ckptd.errors import (
    CkptdError,
    ConflictError,
    CorruptionError,
    InvalidRequestError,
    NotFoundError,
    NotPermittedError,
)
from ckptd.format import names
from ckptd.storage.base import Store
from ckptd.storage.keys import join
from ckptd.storage.together import together

if sys.version_info >= (3, 11):
    from typing import Self
else:
    from typing_extensions import Self

DIRECTORY = ".ckptd"
"""Where records are, below their run."""

ASIDE_DIRECTORY = f"{DIRECTORY}/trash"
"""Where the indexes of deleted checkpoints are for as long as that can be undone, below their run."""

_FORMAT = 1
_MAX_RECORD_BYTES = 64 << 20
_LATEST_S = 253402300799.0  # the last second of the year 9999, which no clock shows
_RANGES: dict[str, tuple[float, float]] = {
    "sequence": (0, 1 << 53),
    "step": (0, names.MAX_STEP),
    "num_shards": (1, 1 << 31),
    "size_bytes": (0, (1 << 63) - 1),
    "attempt": (0, (1 << 31) - 1),
    "epoch": (0, (1 << 53) - 1),
    "term": (0, (1 << 53) - 1),
    "began_at": (-_LATEST_S, _LATEST_S),
    "saved_at": (-_LATEST_S, _LATEST_S),
    "deleted_at": (-_LATEST_S, _LATEST_S),
    "kept_until": (-_LATEST_S, _LATEST_S),
    "aborted_at": (-_LATEST_S, _LATEST_S),
    "duration_s": (-_LATEST_S, _LATEST_S),
    "quarantined_at": (-_LATEST_S, _LATEST_S),
    "verified_at": (-_LATEST_S, _LATEST_S),
    "verified_since": (-_LATEST_S, _LATEST_S),
    "verified_of": (0, (1 << 31) - 1),
    "max_to_keep": (0, (1 << 63) - 1),
    "index_crc32c": (0, (1 << 32) - 1),
}
"""What these fields may be, so that they can be sent and shown: on the wire, and as a date."""

_SAVE_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
_DIGEST = re.compile(r"([0-9a-f]{64})?")


@dataclass(frozen=True, slots=True)
class Record:
    """One save of ours, from before its first byte until its last file is gone.

    Attributes:
        save_id: which save, unique within the run: 1 to 64 letters, digits, ``-`` and ``_``.
        sequence: the order in which the saves of a run began, from 1 on.
        run: the run's directory in the store, "" for the root. Taken from where the record is, not from what it says.
        name: the checkpoint's name, ``model.ckpt``.
        step: the training step, None when saved without one.
        prefix: what the files share, within the run: ``model.ckpt-1200``.
        shard_sizes: bytes in each shard; its length is the number of shards.
        began_at: wall clock, when the save began.
        next_keep_at: when this save makes others leave the list, those saved up to then are sure to be deleted, and
            not kept for good; wall clock. Noted by `Catalog.begin`, lowered before publishing if the rule has changed.
        attempt: counts the attempts of one step.
        epoch: of the coordinator that began it.
        meta_graph: whether the save brings a graph description.
        meta_suffix: what the graph description's key ends in.
        latest_filename: the state file that publishes it.
        write_state: whether a state file is to name it; one that none names is kept for good.
        keeps_replaced: what it replaces can be brought back for a while, as after a deletion.
        retention, max_to_keep, keep_hours, relative_paths: what the trainer requested, so that recovery publishes in
            its sense, before any trainer has joined. Older releases did not note them: then nothing is deleted.
        writers: the hosts whose agents write shards of it; none where the owner of the run writes all.
        layout_digest: where other hosts write: of the layout, in hex, so that the next coordinator knows it again.
        calls: where other hosts write: a digest, in hex, of the calls of `save` that it carries out, on all ranks.
        term: where other hosts write: of the coordinator that began it.
        revived: where other hosts write: a later coordinator than the one that began it went on with it.
        aborted_at: where other hosts write: wall clock, when it was given up. What it had written is deleted, and its
            number of shards stays taken; see `ckptd.engine.catalog.elsewhere`.
        published: the state file has named it, and all that follows from that has been noted.
        saved_at: wall clock, when it was published.
        duration_s: how long the save took.
        index_crc32c: of the index as we wrote it, once published: another program may have replaced it since.
        index_version: of the index that was in place when it began, if that matters to the store.
        dropped: retention or its owner let it go; what is left of it is to be deleted.
        deleted_at: wall clock, when its owner deleted it in a way that can be undone; see `deleting.set_aside`.
        kept_until: wall clock, until when it can come back at least, as the operator's floor says; of one that was
            replaced. None: no longer than any.
        preserved: it left the state file's list, and is kept for good.
        pinned: retention never lets it go.
        released: it is pinned no longer, and retention had let others go in its place: its turn is the next save.
        quarantine: why it is in quarantine, with the bytes that are damaged, in words; "" when it is not.
        quarantined_at: wall clock, since when.
        quarantined_by: the process that read the damaged bytes again.
        verified_at: wall clock, when all of it was last read and found as it should be; None: not yet.
        verified_parts, verified_of, verified_since: which parts, of how many, have been read since when, while it is
            verified part by part.
    """

    save_id: str
    sequence: int
    run: str
    name: str
    step: int | None
    prefix: str
    shard_sizes: tuple[int, ...]
    began_at: float
    next_keep_at: float = 0.0
    attempt: int = 1
    epoch: int = 0
    meta_graph: bool = False
    meta_suffix: str = "meta"
    latest_filename: str = names.STATE_KEY
    write_state: bool = True
    keeps_replaced: bool = False
    retention: str = Rule.SAVER.value
    max_to_keep: int | None = None
    keep_hours: float | None = None
    relative_paths: bool = True
    writers: tuple[str, ...] = ()
    layout_digest: str = ""
    calls: str = ""
    term: int = 0
    revived: bool = False
    aborted_at: float | None = None
    published: bool = False
    saved_at: float = 0.0
    duration_s: float = 0.0
    index_crc32c: int | None = None
    index_version: str | None = None
    dropped: bool = False
    deleted_at: float | None = None
    kept_until: float | None = None
    preserved: bool = False
    pinned: bool = False
    released: bool = False
    quarantine: str = ""
    quarantined_at: float | None = None
    quarantined_by: str = ""
    verified_at: float | None = None
    verified_parts: tuple[int, ...] = ()
    verified_of: int = 0
    verified_since: float | None = None

    def __post_init__(self) -> None:
        if not _SAVE_ID.fullmatch(self.save_id):
            raise InvalidRequestError(f"a save's id is 1 to 64 letters, digits, '-' and '_', not {self.save_id!r}")
        for what in (self.prefix, self.latest_filename, self.meta_suffix):
            if not what or "/" in what or "\0" in what or what in (".", ".."):
                raise InvalidRequestError(f"{what!r} is not the name of a file in the run's directory")
        if not self.shard_sizes or min(self.shard_sizes) < 0:
            raise InvalidRequestError("a checkpoint has one shard at least, and no shard a negative size")
        for digest in (self.layout_digest, self.calls):
            if not _DIGEST.fullmatch(digest):
                raise InvalidRequestError(f"a digest has 64 hexadecimal digits, unlike {digest!r}")
        for what, (least, most) in _RANGES.items():
            value = getattr(self, what)
            if value is not None and not least <= value <= most:
                raise InvalidRequestError(f"{what} is out of range", expected=f"{least} to {most}", actual=value)
        _ = self.policy

    @property
    def num_shards(self) -> int:
        """How many shards it has."""
        return len(self.shard_sizes)

    @property
    def size_bytes(self) -> int:
        """Bytes in all shards."""
        return sum(self.shard_sizes)

    @property
    def key(self) -> str:
        """Where the record itself is."""
        return join(join(self.run, DIRECTORY), f"{self.prefix}.{self.save_id}.json")

    @property
    def prefix_key(self) -> str:
        """The prefix as a key of the store."""
        return join(self.run, self.prefix)

    @property
    def index_key(self) -> str:
        """Where the index is, or will be."""
        return names.index_key(self.prefix_key)

    @property
    def shard_keys(self) -> list[str]:
        """Where the shards are, in order."""
        return [names.shard_key(self.prefix_key, shard, self.num_shards) for shard in range(self.num_shards)]

    @property
    def meta_key(self) -> str:
        """Where the graph description is, if it has one."""
        return names.meta_key(self.prefix_key, self.meta_suffix)

    @property
    def aside_key(self) -> str:
        """Where the index is while its deletion can be undone: under a name that passes for no index."""
        return join(join(self.run, ASIDE_DIRECTORY), f"{self.prefix}.{self.save_id}.index-aside")

    @property
    def aside_meta_key(self) -> str:
        """Where its graph description is while another checkpoint's has its place."""
        return join(join(self.run, ASIDE_DIRECTORY), f"{self.prefix}.{self.save_id}.meta-aside")

    @property
    def policy(self) -> RetentionPolicy:
        """The rule that holds when this save is published by recovery.

        Raises:
            InvalidRequestError: if what the record says makes no sense.
        """
        return RetentionPolicy(self.max_to_keep, self.keep_hours, Rule.named(self.retention))

    def encode(self) -> bytes:
        """Return the record as one JSON object, keys sorted."""
        own = {each: getattr(self, each) for each in self.__dataclass_fields__}
        return (json.dumps({"format": _FORMAT, **own}, sort_keys=True) + "\n").encode()

    @classmethod
    def decode(cls, data: bytes, key: str) -> Self:
        """Read the record that is at `key`. Fields that we don't know are left out.

        Raises:
            CorruptionError: if it is no record, or one that belongs at another key.
        """
        try:
            fields = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise CorruptionError("this record of a save is not JSON", key=key) from error
        if not isinstance(fields, dict):
            raise CorruptionError("this record of a save is not a JSON object", key=key)
        if fields.get("format") != _FORMAT:
            raise CorruptionError(
                "a record of a format that this release cannot read",
                key=key,
                expected=_FORMAT,
                actual=fields.get("format"),
            )
        fields["run"] = key.rpartition("/")[0].rpartition("/")[0]
        known = {name: _checked(key, name, fields[name]) for name in cls.__dataclass_fields__ if name in fields}
        try:
            record = cls(**known)  # type: ignore[arg-type]
        except (TypeError, CkptdError) as error:
            raise CorruptionError(f"this record of a save cannot be right: {error}", key=key) from error
        if record.key != key:
            raise CorruptionError("this record of a save belongs elsewhere", key=key, expected=record.key)
        return record


def _checked(key: str, name: str, value: object) -> object:
    """Return a field's value if it has the field's type."""
    kind = str(Record.__dataclass_fields__[name].type)
    if value is None and kind.endswith("| None"):
        return None
    kind = kind.removesuffix(" | None")
    if kind == "tuple[int, ...]" and isinstance(value, list) and all(type(size) is int for size in value):
        return tuple(value)
    if kind == "tuple[str, ...]" and isinstance(value, list) and all(type(each) is str for each in value):
        return tuple(value)
    if kind == "float" and type(value) in (int, float):
        with suppress(OverflowError):  # an integer of a thousand digits
            number = float(value)  # type: ignore[arg-type]
            if not math.isnan(number):
                return number
    elif type(value).__name__ == kind:
        return value
    raise CorruptionError(f"field {name!r} of this record of a save should be {kind}", key=key, actual=repr(value)[:80])


@dataclass(slots=True)
class Records:
    """All records of a run, as found."""

    found: list[Record] = field(default_factory=list)
    unreadable: list[CkptdError] = field(default_factory=list)


def load(store: Store, run: str) -> Records:
    """Read all records of a run, in the order in which their saves began. Bad ones are errors in the result."""

    def look(key: str) -> Record | CkptdError | None:
        try:
            return read(store, key)
        except NotFoundError:
            # What was deleted meanwhile is no record any more; a pipe or a broken link in its place is damage.
            return CorruptionError(NO_FILE, key=key) if is_taken(store, key) else None
        except (CorruptionError, NotPermittedError) as error:
            return error

    records = Records()
    for found in together(store, look, keys(store, run)):
        if found is None:
            continue
        if isinstance(found, Record):
            records.found.append(found)
        else:
            records.unreadable.append(found)
    records.found.sort(key=lambda record: (record.sequence, record.save_id))
    return records


def read(store: Store, key: str) -> Record:
    """Read the record at `key`.

    Raises:
        CorruptionError: when it is damaged.
    """
    return Record.decode(store.get(key, limit_bytes=_MAX_RECORD_BYTES), key)


def of_prefix(store: Store, run: str, prefix: str) -> list[Record]:
    """Read the records of one checkpoint, `prefix` being its name in the run, in the order in which its saves began.

    Bad ones, and those that go meanwhile, are left out.
    """
    found = []
    for key in keys(store, run, prefix + "."):
        # A prefix may go on with a dot and more, so that others' records can look like ours: their text decides.
        with suppress(CorruptionError, NotFoundError, NotPermittedError):
            record = read(store, key)
            if record.prefix == prefix:
                found.append(record)
    return sorted(found, key=lambda record: (record.sequence, record.save_id))


def keys(store: Store, run: str, starts_with: str = "") -> Iterator[str]:
    """Yield the keys of a run's records, whatever they hold."""
    found = store.keys(join(run, DIRECTORY), starts_with)
    return (key for key in found if key.endswith(".json") and not is_left_beside(key))


def change(store: Store, record: Record, **changes: object) -> Record:
    """Note changes in a record, durably; return the record as it is now."""
    changed = replace(record, **changes)  # type: ignore[arg-type]
    reserve.replace(store, changed.run, changed.key, changed.encode())
    return changed


def change_if_unchanged(store: Store, record: Record, **changes: object) -> Record:
    """Do as `change`, unless the record in the store is another by now: of two owners that decide, one is first.

    Raises:
        ConflictError: another owner has changed it.
        NotFoundError: another owner has deleted it.
    """
    changed = replace(record, **changes)  # type: ignore[arg-type]
    # The version first: if it is replaced in between, we hold an old version, and replacing fails.
    version = store.stat(record.key).version
    found = read(store, record.key)
    if found == changed:
        return changed  # an earlier try took effect, and its answer was lost
    if found != record:
        raise ConflictError("another owner of the run has changed this record", key=record.key)
    reserve.replace(store, changed.run, changed.key, changed.encode(), if_version=version)
    return changed
