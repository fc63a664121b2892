"""What an operator keeps in a run, against retention and against callers that may only save."""

from __future__ import annotations

import pytest

from ckptd.engine.catalog.floor import NO_FLOOR, Floor
from ckptd.engine.catalog.recovery import Fate
from ckptd.errors import NotPermittedError
from ckptd.storage.memory import MemoryStore
from tests.fakes.catalog_run import Run
from tests.fakes.clock import HandClock
from tests.fakes.small_checkpoint import index_bytes, listed_in


class Guarded(Run):
    """A run whose floor a test changes while it is open; a save takes ten seconds."""

    def __init__(self, store: MemoryStore, clock: HandClock, floor: Floor, *, undo_s: float = 60.0) -> None:
        self.floor = floor
        super().__init__(store, clock, max_to_keep=1, undo_s=undo_s, floor=lambda: self.floor)


def guarded(floor: Floor, **options: float) -> Guarded:
    clock = HandClock()
    return Guarded(MemoryStore("m", wall_s=clock.wall_s), clock, floor, **options)


def test_retention_keeps_what_the_floor_says_and_follows_it_when_it_changes() -> None:
    run = guarded(Floor(keep_at_least=3))
    run.save(1, 2, 3, 4)
    assert run.steps() == [2, 3, 4]
    run.floor = Floor(keep_younger_than_s=35.0)
    run.save(5)
    assert run.steps() == [2, 3, 4, 5]
    run.floor = NO_FLOOR
    run.save(6)
    assert run.steps() == [3, 4, 5, 6]


def test_a_restart_finishes_an_interrupted_save_without_going_below_the_floor() -> None:
    run = guarded(Floor(keep_at_least=2))
    run.save(1, 2)
    run.clock.advance(10)
    record = run.begin(3)
    run.store.put(record.index_key, index_bytes(3, record.num_shards))
    restarted = Guarded(run.store, run.clock, Floor(keep_at_least=3))
    assert restarted.recovery.subjects(Fate.ADOPT) == ["memory://m/run/m-3"]
    assert restarted.steps() == [1, 2, 3]
    assert listed_in(restarted.files(), "run") == ["run/m-1", "run/m-2", "run/m-3"]


@pytest.mark.parametrize(
    ("floor", "said"),
    [(Floor(keep_at_least=2), "keeps the newest 2"), (Floor(keep_younger_than_s=7200.0), "younger than 2 hours")],
)
def test_a_caller_that_may_only_save_deletes_nothing_below_the_floor(floor: Floor, said: str) -> None:
    run = guarded(NO_FLOOR)
    run.catalog.edits.pin(run.save(1).step)
    run.save(2)
    run.catalog.edits.unpin(1)
    before = run.files()
    run.floor = floor
    with pytest.raises(NotPermittedError, match=f"{said}.*needs the role `manage`") as refused:
        run.catalog.edits.delete(1, append_only=True)
    assert refused.value.key == "run/m-1"
    assert run.files() == before
    run.catalog.edits.delete(1)
    assert run.steps() == [2]


def test_above_the_floor_it_deletes_what_can_be_brought_back() -> None:
    run = guarded(Floor(keep_at_least=1))
    run.catalog.edits.pin(run.save(1).step)
    run.save(2)
    run.catalog.edits.unpin(1)
    run.catalog.edits.delete(1, append_only=True)
    assert run.steps() == [2]
    assert run.catalog.edits.undelete(1).step == 1


def test_where_nothing_deleted_can_come_back_it_deletes_nothing() -> None:
    run = guarded(Floor(keep_at_least=2), undo_s=0.0)
    run.save(1, 2)
    run.floor = NO_FLOOR
    with pytest.raises(NotPermittedError, match="could not be brought back"):
        run.catalog.edits.delete(1, append_only=True)
    assert run.steps() == [1, 2]
