from __future__ import annotations

from dataclasses import replace

import pytest

from ckptd.engine.catalog.deleting import IndexInPlace
from ckptd.engine.catalog.records import Record
from ckptd.engine.catalog.recovery import Fate, SaveFacts, horizon_of, judge
from ckptd.format.crc32c import crc32c
from tests.fakes.small_checkpoint import index_bytes

OURS = index_bytes(1, 2)
NEW = Record("a", 5, "run", "m", 1, "m-1", (16, 12), 100.0, next_keep_at=1000.0)
DONE = replace(NEW, published=True, saved_at=500.0, index_crc32c=crc32c(OURS))
LATER = replace(NEW, save_id="b", sequence=6, shard_sizes=(16, 12, 12))
MINE, ANOTHERS, REWRITTEN = (
    IndexInPlace(OURS, "i"),
    IndexInPlace(index_bytes(1, 3), "i"),
    IndexInPlace(index_bytes(2, 2), "i"),
)
DELETED = replace(DONE, dropped=True, deleted_at=700.0)
ROTTEN = IndexInPlace(b"no index", "i")


def facts(
    record: Record,
    index: IndexInPlace | None,
    *,
    listed: bool = False,
    shards: bool = True,
    replaced_by: Record | None = None,
    horizon: float | None = None,
    undoable: bool = False,
    aside: bool = False,
) -> SaveFacts:
    return SaveFacts(record, listed, index, shards, replaced_by, horizon, undoable, aside)


CASES = [
    # never published
    ("killed before the index", facts(NEW, None), Fate.SWEEP),
    ("killed before the index of an overwrite", facts(NEW, ANOTHERS, listed=True), Fate.SWEEP),
    ("killed before the state file", facts(NEW, MINE), Fate.ADOPT),
    ("killed before the record", facts(NEW, MINE, listed=True), Fate.CONFIRM),
    ("complete index, shards gone", facts(NEW, MINE, shards=False), Fate.LEAVE),
    ("index cannot be read", facts(NEW, ROTTEN), Fate.LEAVE),
    ("listed, index gone", facts(NEW, None, listed=True), Fate.LEAVE),
    ("killed before the record, and not to be listed", facts(replace(NEW, write_state=False), MINE), Fate.CONFIRM),
    ("noted late, with the shards of another", replace(facts(NEW, MINE, listed=True), double_of=LATER), Fate.FORGET),
    ("its hosts may come back", replace(facts(replace(NEW, writers=("h",)), None), may_go_on=True), Fate.WAIT),
    ("its hosts came too late", facts(replace(NEW, writers=("h",)), None), Fate.SWEEP),
    ("its hosts may come back, but it has its index", replace(facts(NEW, MINE), may_go_on=True), Fate.ADOPT),
    ("its hosts may come back, and another has its step", replace(facts(NEW, ANOTHERS), may_go_on=True), Fate.WAIT),
    ("a tombstone", facts(replace(NEW, writers=("h",), aborted_at=1.0), None), Fate.SWEEP),
    # published
    ("all is well", facts(DONE, MINE, listed=True), Fate.NOTHING),
    ("kept for good", facts(replace(DONE, preserved=True), MINE), Fate.NOTHING),
    ("pinned", facts(replace(DONE, pinned=True), MINE), Fate.NOTHING),
    ("someone edited the state file", facts(DONE, MINE), Fate.PRESERVE),
    ("retention interrupted", facts(DONE, MINE, horizon=500.0), Fate.DROP),
    ("retention interrupted, may have been due", facts(DONE, MINE, horizon=499.0), Fate.PRESERVE),
    ("pinned while retention was interrupted", facts(replace(DONE, pinned=True), MINE, horizon=500.0), Fate.NOTHING),
    ("retention interrupted after the index", facts(DONE, None, horizon=500.0), Fate.DROP),
    ("someone deleted the index", facts(DONE, None), Fate.LEAVE),
    ("someone deleted the index of a listed one", facts(DONE, None, listed=True, horizon=500.0), Fate.LEAVE),
    ("overwritten by us", facts(DONE, ANOTHERS, listed=True, replaced_by=LATER), Fate.DROP),
    ("overwritten by another program", facts(DONE, ANOTHERS, listed=True), Fate.LEAVE),
    ("overwritten by another program, same count", facts(DONE, REWRITTEN), Fate.LEAVE),
    ("index rotten, listed", facts(DONE, ROTTEN, listed=True), Fate.NOTHING),
    ("index rotten, not listed", facts(DONE, ROTTEN, horizon=500.0), Fate.LEAVE),
    # marked to be dropped
    ("drop not begun", facts(replace(DONE, dropped=True), MINE), Fate.DROP),
    ("drop begun", facts(replace(DONE, dropped=True), None), Fate.DROP),
    ("drop of one that was overwritten", facts(replace(DONE, dropped=True), ANOTHERS, listed=True), Fate.DROP),
    ("drop marked, still listed", facts(replace(DONE, dropped=True), MINE, listed=True), Fate.RESTORE),
    ("drop, listed, shards gone", facts(replace(DONE, dropped=True), MINE, listed=True, shards=False), Fate.LEAVE),
    ("drop, index rewritten", facts(replace(DONE, dropped=True), REWRITTEN), Fate.LEAVE),
    ("drop, index rotten", facts(replace(DONE, dropped=True), ROTTEN), Fate.LEAVE),
    # deleted by its owner, who may think again
    ("deleted", facts(DELETED, None, undoable=True, aside=True), Fate.NOTHING),
    ("deleted, and its time is over", facts(DELETED, None, aside=True), Fate.DROP),
    ("deleted, and its going begun", facts(DELETED, None, undoable=True), Fate.DROP),
    ("killed while deleting", facts(DELETED, MINE, undoable=True), Fate.SET_ASIDE),
    ("killed while bringing back", facts(DELETED, MINE, undoable=True, aside=True), Fate.SET_ASIDE),
    ("brought back but for the mark", facts(DELETED, MINE, listed=True, undoable=True, aside=True), Fate.RESTORE),
]


@pytest.mark.parametrize(("name", "found", "fate"), CASES, ids=[case[0] for case in CASES])
def test_what_is_found_decides_its_fate_with_a_reason(name: str, found: SaveFacts, fate: Fate) -> None:
    decided, reason = judge(found)
    assert (decided, bool(reason)) == (fate, True), reason


def test_the_table_has_every_fate() -> None:
    assert {fate for _, _, fate in CASES} == set(Fate)


def test_retention_was_interrupted_only_if_a_listed_save_is_not_noted() -> None:
    assert horizon_of([]) is None
    assert horizon_of([NEW, replace(NEW, next_keep_at=10.0)]) == 10.0
