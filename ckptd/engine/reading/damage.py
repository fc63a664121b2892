"""Is a checkpoint damaged? A reader that meets damage names the bytes; the owner of the run reads them again.

A reader's report is only a suspicion: its own memory, its mount or its network may be at fault, or the report may be
false. Only what the owner reads counts. A read that fails says nothing about the bytes, so its error is raised.
"""

from __future__ import annotations

from dataclasses import dataclass

from ckptd.engine.reading.bundle import Bundle
from ckptd.engine.reading.verify import Problem, verify
from ckptd.errors import CkptdError, CorruptionError, NotFoundError
from ckptd.format.names import index_key
from ckptd.storage.base import Objects


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Which bytes of a checkpoint looked wrong to a reader.

    Attributes:
        key: the object; "" or one that is none of the checkpoint's for all of it.
        offset: of the first byte concerned, None for the whole object.
        reason: what was seen, in words.
    """

    key: str = ""
    offset: int | None = None
    reason: str = ""

    @classmethod
    def of(cls, error: CkptdError) -> Suspicion:
        """Return what an error that was met while reading says."""
        return cls(error.key or "", error.offset, str(error))


@dataclass(frozen=True, slots=True)
class DamageVerdict:
    """What the owner of a run says to a suspicion.

    Attributes:
        is_confirmed: the checkpoint is damaged, or gone.
        reason: why, in words.
        is_listed_no_more: it is in quarantine now, or gone; otherwise only this reader passes it by.
        others: the ranks of this start that have restored it already, in words; then no rank may go back alone.
    """

    is_confirmed: bool
    reason: str
    is_listed_no_more: bool = True
    others: str = ""


def look_again(objects: Objects, prefix: str, suspicion: Suspicion) -> Problem | None:
    """Read the suspected bytes of the checkpoint `prefix`, and say what is wrong with them; None if nothing is.

    Raises:
        NotFoundError: when its index is gone: then there is no checkpoint, and no damaged one either.
        UnavailableError, NotPermittedError: when it can't be read.
    """
    try:
        bundle = Bundle.open(objects, prefix)
    except CorruptionError as error:
        return Problem(error.key or index_key(prefix), error.reason, offset=error.offset)
    report = verify(objects, prefix, only=_concerned(bundle, suspicion))
    problem = next((each for each in report.problems if each.is_fatal), None)
    if problem is not None:
        # A reader that comes while the checkpoint is deleted or replaced finds shards missing: the index tells.
        data = objects.get(index_key(prefix))
        if bundle.index.num_shards != Bundle.open(objects, prefix).index.num_shards or not data:
            raise NotFoundError("it was replaced while it was read", key=index_key(prefix))
    return problem


def _concerned(bundle: Bundle, suspicion: Suspicion) -> set[str] | None:
    """Return the tensors that have bytes where damage is suspected; None for all of them."""
    shards = {bundle.shard_key(shard): shard for shard in range(bundle.index.num_shards)}
    shard = shards.get(suspicion.key)
    if shard is None:
        return None
    names = set()
    for name in bundle.names():
        try:
            pieces = bundle.index.tensor(name).pieces
        except CorruptionError:
            names.add(name)
            continue
        if any(
            piece.shard_id == shard
            and (suspicion.offset is None or piece.offset <= suspicion.offset < piece.offset + max(piece.size, 1))
            for piece in pieces
        ):
            names.add(name)
    return names or None
