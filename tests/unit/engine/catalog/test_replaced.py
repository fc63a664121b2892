"""What a caller that may only save replaces can be brought back for a while, whatever a crash interrupts."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from ckptd.engine.catalog.floor import Floor
from ckptd.engine.catalog.recovery import Fate
from ckptd.errors import ConflictError, NotFoundError
from ckptd.storage.memory import MemoryStore
from tests.fakes.catalog_run import Run
from tests.fakes.clock import HandClock
from tests.fakes.small_checkpoint import listed_in, seed_of

UNDO_S = 60.0


class DiedError(Exception):
    """The process ended here."""


def a_run(store: MemoryStore | None = None, clock: HandClock | None = None, **options: object) -> Run:
    clock = clock or HandClock()
    return Run(store or MemoryStore("m", wall_s=clock.wall_s), clock, max_to_keep=3, undo_s=UNDO_S, **options)


def replace_2(run: Run, seed: int, graph: bytes | None = None) -> None:
    run.save(2, seed=seed, overwrite=True, keeps_replaced=True, graph=graph)


def in_place(run: Run) -> int:
    return seed_of(run.files(), "run/m-2")


def test_what_was_replaced_comes_back_and_changes_places_with_its_successor() -> None:
    run = a_run()
    run.save(1, 2)
    before = run.files()
    replace_2(run, 22)
    assert (in_place(run), run.steps()) == (22, [1, 2])
    assert run.catalog.edits.undelete(2).save_id == "2-0-2"
    assert (in_place(run), run.steps()) == (2, [1, 2])
    assert {key: run.files()[key] for key in before if "m-2.data" in key or "m-2.index" in key} == {
        key: data for key, data in before.items() if "m-2.data" in key or "m-2.index" in key
    }
    assert a_run(run.store, run.clock).steps() == [1, 2]
    assert run.catalog.edits.undelete(2).save_id == "2-22-3"
    assert in_place(run) == 22
    assert listed_in(run.files(), "run") == ["run/m-1", "run/m-2"]


def test_each_undo_goes_one_save_back_and_from_the_first_to_the_last_again() -> None:
    run = a_run()
    run.save(2)
    for seed in (22, 222):
        replace_2(run, seed)
    found = []
    for _ in range(4):
        run.catalog.edits.undelete(2)
        found.append(in_place(a_run(run.store, run.clock)))
        run.catalog.upkeep.recover()
    assert found == [22, 2, 222, 22]


def test_its_space_is_freed_when_the_time_is_over_and_only_its_own() -> None:
    run = a_run()
    run.save(2)
    replace_2(run, 22)
    run.clock.advance(UNDO_S)
    run.catalog.retire()
    assert in_place(run) == 22
    assert not [key for key in run.files() if "of-00002" in key or key.endswith("aside")]
    with pytest.raises(NotFoundError):
        run.catalog.edits.undelete(2)


def test_a_deletion_can_still_be_undone_when_the_step_was_saved_again() -> None:
    run = a_run()
    run.save(1, 2, 3)
    run.catalog.edits.delete(2)
    run.save(2, seed=22, keeps_replaced=True)
    run.catalog.edits.undelete(2)
    assert in_place(run) == in_place(a_run(run.store, run.clock)) == 2


def test_what_another_caller_replaces_is_gone_and_what_was_kept_before_it() -> None:
    run = a_run()
    run.save(2)
    replace_2(run, 22)
    run.save(2, seed=222, overwrite=True)
    assert in_place(run) == 222
    with pytest.raises(NotFoundError):
        run.catalog.edits.undelete(2)
    assert not [key for key in run.files() if key.endswith("aside")]


def test_what_is_younger_than_the_floor_comes_back_although_the_time_to_undo_is_over() -> None:
    clock = HandClock()
    store = MemoryStore("m", wall_s=clock.wall_s)
    run = a_run(store, clock, floor=lambda: Floor(keep_younger_than_s=1000.0))
    run.save(2, graph=b"graph of 2")
    for seed in (22, 222):
        replace_2(run, seed, b"graph of %d" % seed)
    clock.advance(UNDO_S + 1)
    run = a_run(store, clock)  # also where the policy says so no longer
    run.catalog.retire()
    run.catalog.edits.undelete(2)
    assert (in_place(run), run.files()["run/m-2.meta"]) == (22, b"graph of 22")
    clock.advance(1000.0)
    run.catalog.retire()
    assert in_place(run) == 22
    with pytest.raises(NotFoundError):
        run.catalog.edits.undelete(2)
    assert not [key for key in run.files() if key.endswith("aside")]


def test_a_graph_comes_back_with_a_deletion_after_the_step_was_saved_again() -> None:
    run = a_run()
    run.save(1)
    run.save(2, graph=b"graph of 2")
    run.save(3)
    run.catalog.edits.delete(2)
    run.save(2, seed=22, keeps_replaced=True, graph=b"graph of 22")
    run.catalog.edits.undelete(2)
    assert (in_place(run), run.files()["run/m-2.meta"]) == (2, b"graph of 2")


def test_a_pinned_successor_is_not_put_away() -> None:
    run = a_run()
    run.save(2)
    replace_2(run, 22)
    run.catalog.edits.pin(2)
    with pytest.raises(ConflictError, match="pinned: unpin it first"):
        run.catalog.edits.undelete(2)
    assert in_place(run) == 22


def test_retention_takes_the_successor_alone_and_the_other_still_comes_back() -> None:
    run = a_run()
    run.save(2)
    replace_2(run, 22)
    run.save(3, 4, 5)
    assert run.steps() == [3, 4, 5]
    run.catalog.edits.undelete(2)
    assert in_place(run) == 2


def replacing(run: Run, graph: bytes | None) -> None:
    replace_2(run, 22, graph)


def exchanging(run: Run, graph: bytes | None) -> None:
    replace_2(run, 22, graph)
    run.catalog.edits.undelete(2)


def exchanging_back(run: Run, graph: bytes | None) -> None:
    exchanging(run, graph)
    run.catalog.edits.undelete(2)


@pytest.mark.parametrize("has_graph", [False, True], ids=["plain", "with its graph"])
@pytest.mark.parametrize("is_listed", [True, False], ids=["listed", "kept for good"])
@pytest.mark.parametrize("story", [replacing, exchanging, exchanging_back])
def test_a_crash_at_any_step_loses_neither(
    story: Callable[[Run, bytes | None], None], is_listed: bool, has_graph: bool
) -> None:
    graphs = {2: b"graph of 2", 22: b"graph of 22"} if has_graph else {2: None, 22: None}
    for number in itertools.count():
        steps = itertools.count()

        def die(step: str, number: int = number, steps: itertools.count[int] = steps) -> None:
            if next(steps) == number:
                raise DiedError(step)

        clock = HandClock()
        store = MemoryStore("m", wall_s=clock.wall_s)
        first = a_run(store, clock)
        first.save(1)
        first.save(2, graph=graphs[2])
        if not is_listed:
            first.save(3)
            first.catalog.edits.delete(2)
            first.save(4)
            first.catalog.edits.undelete(2)
            assert "run/m-2" not in listed_in(first.files(), "run")
        run = a_run(store, clock, on_step=die)
        try:
            story(run, graphs[22])
            is_over = True
        except DiedError:
            is_over = False
        after = a_run(store, clock)
        assert not after.recovery.subjects(Fate.LEAVE), after.recovery
        assert a_run(store, clock).recovery.outcomes == (), "a second start finds nothing to do"
        reachable = {in_place(after)}
        assert after.files().get("run/m-2.meta") == graphs[in_place(after)], number
        for _ in range(2):
            try:
                after.catalog.edits.undelete(2)
            except NotFoundError:
                break
            reachable.add(in_place(after))
            assert after.files().get("run/m-2.meta") == graphs[in_place(after)], number
        assert 2 in reachable, number
        if is_over:
            assert reachable == {2, 22}
            return


def test_what_another_program_has_put_in_its_place_is_neither_replaced_nor_exchanged() -> None:
    run = a_run()
    run.save(1, 2)
    replace_2(run, 22)
    foreign = run.store.get("run/m-1.index")
    run.store.replace("run/m-2.index", foreign)
    with pytest.raises(ConflictError, match="not the one that ckptd wrote"):
        run.catalog.edits.undelete(2)
    record = run.begin(2, 222, keeps_replaced=True)
    with pytest.raises(ConflictError, match="needs the role `manage`"):
        run.commit(record, 222, overwrite=True)
    run.catalog.abandon(record)
    assert run.store.get("run/m-2.index") == foreign
