"""Puts the index of a save in place, and finds out what a failed attempt at that has left."""

from __future__ import annotations

from ckptd.engine.catalog.catalog import Catalog
from ckptd.engine.catalog.records import Record
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.identity import SaveRef
from ckptd.engine.log import logger
from ckptd.engine.refusals import InDoubtError
from ckptd.errors import CkptdError


def put_in_place(
    catalog: Catalog,
    record: Record,
    index: bytes,
    meta_graph: bytes | None,
    *,
    ref: SaveRef,
    overwrite: bool,
    duration_s: float,
) -> Checkpoint:
    """Commit and publish a save; return its checkpoint, also if the store failed and it is there all the same.

    The catalog's lock is held.

    Raises:
        InDoubtError: when the store failed so that it cannot be said now whether the save counts.
        CkptdError: why it was not committed.
    """
    try:
        # One in quarantine gives way: training that went back saves its step again.
        overwrite = overwrite or catalog.is_replaceable(record.name, record.step)
        return catalog.commit(record, index, meta_graph, overwrite=overwrite, duration_s=duration_s)
    except CkptdError as error:
        return _published_after_all(catalog, record, ref, error)


def _published_after_all(catalog: Catalog, record: Record, ref: SaveRef, error: CkptdError) -> Checkpoint:
    """Find out what a failed commit left; return the checkpoint if it is there all the same, else raise."""
    try:
        catalog.abandon(record)
        checkpoints = catalog.contents.checkpoints()
    except CkptdError as failure:
        if catalog.upkeep.is_fenced:
            failure.add_note(f"whether {ref} counts is for that owner to say: it knows what was complete")
            raise failure from error
        why = f"committing it failed ({error}), and so did looking for what is there ({failure}); try again later"
        doubt = InDoubtError(f"cannot tell now whether {ref} was saved: {why}")
        doubt.why = why
        raise doubt from error
    published = next((one for one in checkpoints if one.save_id == record.save_id), None)
    if published is None:
        raise error
    logger.warning("%s was saved in spite of an error: %s", ref, error)
    return published
