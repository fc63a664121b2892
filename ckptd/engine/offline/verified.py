"""When a checkpoint was last read and found intact, as a whole or part by part: noted in its record.

A large checkpoint can be verified in several passes, one part in each. Once every part has been read, it counts as
verified since the first pass.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from ckptd.engine.catalog import records
from ckptd.engine.catalog.records import Record
from ckptd.engine.offline import ownership
from ckptd.engine.reading.bundle import Bundle
from ckptd.errors import ConflictError, CorruptionError, InvalidRequestError, NotPermittedError, StorageFullError
from ckptd.storage.base import Objects, Store

_MOST_PARTS = 10_000


@dataclass(frozen=True, slots=True)
class Subset:
    """The n-th of `total` parts of a checkpoint, counted from 1."""

    number: int = 1
    total: int = 1

    @classmethod
    def parse(cls, text: str) -> Subset:
        """Read ``2/7``; `InvalidRequestError` for what is no part."""
        number, _, total = text.partition("/")
        if not (number.isascii() and number.isdigit() and total.isascii() and total.isdigit()):
            raise InvalidRequestError("a part is written n/t", expected="as 2/7", actual=repr(text))
        subset = cls(int(number[:9]), int(total[:9]))
        if not 1 <= subset.number <= subset.total <= _MOST_PARTS:
            raise InvalidRequestError(f"a part n/t has n from 1 to t, and t up to {_MOST_PARTS}", actual=repr(text))
        return subset

    def tensors(self, objects: Objects, key: str) -> set[str] | None:
        """Return the names of the tensors in this part, None for all: about as many bytes as in every other part."""
        if self.total == 1:
            return None
        try:
            bundle = Bundle.open(objects, key)
        except CorruptionError:
            return None  # which the verification says
        sizes: list[tuple[str, int]] = []
        for name in bundle.names():
            try:
                sizes.append((name, sum(piece.size for piece in bundle.index.tensor(name).pieces)))
            except CorruptionError:
                sizes.append((name, 0))
        total_bytes = sum(size for _, size in sizes) or 1
        chosen, at = set(), 0
        for name, size in sizes:
            if min(at * self.total // total_bytes, self.total - 1) == self.number - 1:
                chosen.add(name)
            at += size
        return chosen


def note_verified(store: Store, key: str, save_id: str, subset: Subset, holder: str) -> str:
    """Note that a part of the checkpoint `key`, directly in the root of `store`, was read and is intact.

    Returns why it could not be noted, in words; "" when it was. Nothing of that is an error: the bytes are right.
    """
    found = [each for each in records.of_prefix(store, "", key) if each.save_id == save_id and each.published]
    if not found:
        return "ckptd did not write it"
    if not store.has_locks:
        return "a bucket has no locks: its daemon notes what it reads itself"
    try:
        with ownership.owned(store, holder):
            again = [each for each in records.of_prefix(store, "", key) if each.save_id == save_id]
            if again:
                records.change(store, with_part(again[-1], subset, time.time()))
    except ConflictError as error:
        return f"another process works on the run: {error}"
    except (NotPermittedError, StorageFullError) as error:
        return str(error)
    return ""


def with_part(record: Record, subset: Subset, now: float) -> Record:
    """Return a record that says that this part was read just now."""
    if subset.total == 1:
        return replace(record, verified_at=now, verified_parts=(), verified_of=0, verified_since=None)
    is_going_on = record.verified_of == subset.total and record.verified_since is not None
    parts = {*(record.verified_parts if is_going_on else ()), subset.number}
    since = record.verified_since if is_going_on else now
    if len(parts) == subset.total:
        return replace(record, verified_at=since, verified_parts=(), verified_of=0, verified_since=None)
    return replace(record, verified_parts=tuple(sorted(parts)), verified_of=subset.total, verified_since=since)
