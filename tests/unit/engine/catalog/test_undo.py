"""Deletions that can be undone: for a while, of what an owner deleted, and never at the cost of a later save."""

from __future__ import annotations

import pytest

from ckptd.engine.catalog.catalog import Catalog
from ckptd.engine.catalog.recovery import Fate
from ckptd.engine.catalog.retention import RetentionPolicy
from ckptd.engine.saves.coordinator import Coordinator
from ckptd.engine.settings import Settings
from ckptd.errors import ConflictError, NotFoundError
from ckptd.storage.memory import MemoryStore
from tests.fakes.catalog_run import Run
from tests.fakes.clock import HandClock
from tests.fakes.small_checkpoint import latest_in, listed_in, seed_of

UNDO_S = 60.0


@pytest.fixture
def run() -> Run:
    clock = HandClock()
    run = Run(MemoryStore("m", wall_s=clock.wall_s), clock, max_to_keep=3, undo_s=UNDO_S)
    run.save(1, 2, 3)
    return run


def again(run: Run) -> Run:
    return Run(run.store, run.clock, max_to_keep=3, undo_s=UNDO_S)


def left_of(run: Run, step: int) -> list[str]:
    return [key for key in run.files() if f"m-{step}." in key]


def test_what_was_deleted_comes_back_where_it_was(run: Run) -> None:
    before = run.files()
    run.catalog.edits.delete(2)
    assert run.steps() == [1, 3]
    assert listed_in(run.files(), "run") == ["run/m-1", "run/m-3"]
    with pytest.raises(NotFoundError):
        run.catalog.contents.find(2)
    assert run.catalog.edits.undelete(2) == run.catalog.contents.find(2)
    assert run.files() == before
    assert again(run).steps() == [1, 2, 3]


def test_it_can_be_undone_after_a_restart_until_its_time_is_over(run: Run) -> None:
    run.catalog.edits.delete(2)
    later = again(run)
    assert later.recovery.outcomes == ()
    assert later.catalog.edits.undelete("m-2").step == 2
    later.catalog.edits.delete(2)
    run.clock.advance(UNDO_S)
    assert again(later).recovery.subjects(Fate.DROP) == ["memory://m/run/m-2"]
    assert not left_of(run, 2)
    with pytest.raises(NotFoundError, match="deleted lately"):
        again(later).catalog.edits.undelete(2)


def test_the_next_retention_sweeps_what_is_over_and_nothing_else(run: Run) -> None:
    run.catalog.edits.delete(1)
    run.clock.advance(UNDO_S / 2)
    run.catalog.edits.delete(2)
    run.clock.advance(UNDO_S / 2)
    run.catalog.retire()
    assert not left_of(run, 1)
    assert run.catalog.edits.undelete(2).step == 2


def test_saving_the_step_again_gives_up_the_undo(run: Run) -> None:
    run.catalog.edits.delete(2)
    run.save(2, seed=22)
    with pytest.raises(NotFoundError):
        run.catalog.edits.undelete(2)
    assert seed_of(run.files(), "run/m-2") == 22
    assert not [key for key in run.files() if "trash" in key]


def test_without_room_in_the_list_it_comes_back_for_good(run: Run) -> None:
    run.catalog.edits.delete(1)
    run.save(4)
    run.catalog.edits.undelete(1)
    assert listed_in(run.files(), "run") == ["run/m-2", "run/m-3", "run/m-4"]
    run.save(5, 6, 7)
    assert run.steps() == again(run).steps() == [1, 5, 6, 7]


def test_the_latest_and_only_one_comes_back_as_the_latest(run: Run) -> None:
    for step in (1, 2):
        run.catalog.edits.delete(step, for_good=True)
    with pytest.raises(ConflictError):
        run.catalog.edits.delete(3)
    run.catalog.edits.delete(3, even_latest=True)
    assert latest_in(run.files(), "run") is None
    run.catalog.edits.undelete(3)
    assert latest_in(run.files(), "run") == "run/m-3"


def test_what_is_for_good_is_gone_at_once(run: Run) -> None:
    run.catalog.edits.delete(2, for_good=True)
    assert not left_of(run, 2)
    at_once = Catalog(run.store, "run", clock=run.clock, policy=RetentionPolicy(3))
    at_once.upkeep.recover()
    at_once.edits.delete(1)
    assert not left_of(run, 1)


def test_a_foreign_index_is_never_set_aside(run: Run) -> None:
    run.store.replace("run/m-2.index", run.store.get("run/m-3.index"))
    with pytest.raises(ConflictError):
        run.catalog.edits.delete(2)
    assert run.store.get("run/m-2.index") == run.store.get("run/m-3.index")


def test_time_alone_sweeps_what_can_be_undone_no_longer() -> None:
    clock = HandClock()
    run = Run(MemoryStore("m", wall_s=clock.wall_s), clock, undo_s=UNDO_S)
    run.save(1, 2)
    run.catalog.edits.delete(1)
    coordinator = Coordinator(run.store, settings=Settings(undo_s=UNDO_S), clock=clock)
    coordinator.open()
    coordinator.inspect()
    assert coordinator.is_inspected(10.0)
    try:
        clock.advance(UNDO_S / 2)
        coordinator.tick()
        assert coordinator.settle(10.0)
        assert left_of(run, 1)
        clock.advance(UNDO_S)
        coordinator.tick()
        assert coordinator.settle(10.0)
        assert not left_of(run, 1)
    finally:
        coordinator.close()
