"""What people and other programs do to checkpoints: pins, deletions, files that are not ours or were edited."""

from __future__ import annotations

import pytest

from ckptd.engine.catalog.catalog import Catalog
from ckptd.engine.catalog.recovery import Fate
from ckptd.engine.catalog.retention import Action
from ckptd.errors import ConflictError, CorruptionError, NotFoundError
from ckptd.storage.memory import MemoryStore
from tests.fakes.catalog_run import Run, again
from tests.fakes.clock import HandClock
from tests.fakes.small_checkpoint import index_bytes, seed_of, shard_bytes


@pytest.fixture
def run() -> Run:
    clock = HandClock()
    return Run(MemoryStore("m", wall_s=clock.wall_s), clock)


def test_a_pinned_checkpoint_outlives_the_rule_until_it_is_unpinned(run: Run) -> None:
    run.save(1)
    assert run.catalog.edits.pin(1).pinned
    run.save(2, 3)
    later = again(run)
    later.save(4)
    assert later.steps() == [1, 3, 4]
    assert later.catalog.contents.find(1).pinned
    with pytest.raises(ConflictError):
        later.catalog.edits.delete(1)
    assert not later.catalog.edits.unpin(1).pinned
    later.save(5)
    assert later.steps() == [4, 5]


@pytest.mark.parametrize("pinned", [True, False])
def test_a_pin_holds_for_what_replaces_the_checkpoint_also_if_it_changed_meanwhile(run: Run, pinned: bool) -> None:
    run.save(1)
    if not pinned:
        run.catalog.edits.pin(1)
    record = run.begin(1, 11)
    (run.catalog.edits.pin if pinned else run.catalog.edits.unpin)(1)
    run.commit(record, 11, overwrite=True)
    assert run.catalog.contents.find(1).pinned == again(run).catalog.contents.find(1).pinned == pinned
    later = again(run)
    later.save(2, 3, 4)
    assert later.steps() == ([1, 3, 4] if pinned else [3, 4])


def test_until_a_trainer_has_come_back_its_own_rule_decides_and_not_the_default(run: Run) -> None:
    keeping = again(run, max_to_keep=10)
    keeping.save(*range(1, 7))
    keeping.catalog.edits.pin(1)
    # As after a restart of the daemon: nobody has told the new one yet what is to be kept.
    restarted = Catalog(run.store, "run", clock=run.clock)
    restarted.upkeep.recover()
    restarted.edits.unpin(1)
    later = again(run, max_to_keep=10)
    later.save(7)
    assert later.steps() == [1, 2, 3, 4, 5, 6, 7]


def test_what_is_being_read_is_looked_at_again_without_another_save(run: Run) -> None:
    run.save(1, 2)
    assert run.catalog.next_sweep_at() is None
    run.commit(run.begin(3))
    [verdict] = run.catalog.retire({"memory://m/run/m-1"})
    assert (verdict.action, verdict.prefix) == (Action.KEEP, "memory://m/run/m-1")
    again_at = run.catalog.next_sweep_at()
    assert again_at is not None
    assert 0 < again_at - run.clock.wall_s() <= 60
    assert [verdict.action for verdict in run.catalog.retire()] == [Action.DROP]
    assert (run.catalog.next_sweep_at(), run.steps()) == (None, [2, 3])


def test_deleting_takes_it_from_the_state_file_and_then_its_files(run: Run) -> None:
    run.save(1, 2)
    assert run.catalog.edits.delete(1).step == 1
    assert run.steps() == again(run).steps() == [2]
    assert not [key for key in run.files() if "m-1" in key]
    assert b"m-1" not in run.store.get("run/checkpoint")
    with pytest.raises(NotFoundError):
        run.catalog.edits.delete(1)


def test_the_latest_is_deleted_only_on_purpose(run: Run) -> None:
    run.save(1, 2)
    with pytest.raises(ConflictError):
        run.catalog.edits.delete(2)
    run.catalog.edits.delete(2, even_latest=True)
    assert run.steps() == again(run).steps() == [1]
    run.catalog.edits.delete(1, even_latest=True)
    assert run.files() == {}
    run.save(3)
    assert again(run).steps() == [3]


def test_a_foreign_checkpoint_is_listed_counted_and_never_deleted(run: Run) -> None:
    theirs = {"run/tf-1.index": index_bytes(1, 1), "run/tf-1.data-00000-of-00001": shard_bytes(1, 0)}
    for key, data in theirs.items():
        run.store.put(key, data)
    run.store.put("run/checkpoint", b'model_checkpoint_path: "tf-1"\nall_model_checkpoint_paths: "tf-1"\n')
    mine = again(run)
    assert mine.catalog.contents.latest() == mine.catalog.contents.find(1)
    assert mine.catalog.contents.find(1).save_id == ""
    for call in (mine.catalog.edits.pin, mine.catalog.edits.delete):
        with pytest.raises(ConflictError):
            call(1)
    mine.save(2)
    assert mine.steps() == [1, 2]
    mine.commit(mine.begin(3))
    [verdict] = mine.catalog.retire()
    assert (verdict.action, verdict.prefix) == (Action.PRESERVE, "memory://m/run/tf-1")
    assert theirs.items() <= mine.files().items()


def test_paths_that_lead_elsewhere_stay_in_the_list_as_they_are(run: Run) -> None:
    run.store.put(
        "run/checkpoint", b'model_checkpoint_path: "/elsewhere/m-9"\nall_model_checkpoint_paths: "../x/m-8"\n'
    )
    mine = again(run, max_to_keep=3)
    assert (mine.catalog.contents.latest(), mine.catalog.contents.checkpoints()) == (None, [])
    mine.save(10)
    state = mine.store.get("run/checkpoint")
    assert b'all_model_checkpoint_paths: "/elsewhere/m-9"\n' in state
    assert mine.catalog.contents.latest() == mine.catalog.contents.find(10)


def test_a_malformed_state_file_is_never_an_empty_history(run: Run) -> None:
    run.save(1)
    run.store.replace("run/checkpoint", b"model_checkpoint_path: oops")
    with pytest.raises(CorruptionError) as caught:
        again(run)
    assert caught.value.key == "run/checkpoint"
    assert seed_of(run.files(), "run/m-1") == 1


@pytest.mark.parametrize("missing", ["run/m-2.index", "run/m-2.data-00001-of-00002"])
def test_when_files_of_the_latest_are_gone_the_one_before_is_latest(run: Run, missing: str) -> None:
    run.save(1, 2)
    run.store.delete([missing])
    later = again(run)
    assert later.catalog.contents.latest() == later.catalog.contents.find(1)
    assert "memory://m/run/m-2" in later.recovery.subjects(Fate.LEAVE)
    later.save(3)
    assert later.steps() == [1, 3]


def test_a_state_file_that_a_person_edited_does_not_cost_files(run: Run) -> None:
    run.save(1, 2)
    run.store.replace("run/checkpoint", b'model_checkpoint_path: "m-1"\n')
    later = again(run)
    assert later.recovery.subjects(Fate.PRESERVE) == ["memory://m/run/m-2"]
    assert later.catalog.contents.latest() == later.catalog.contents.find(1)
    later.save(3, 4)
    assert seed_of(later.files(), "run/m-2") == 2
    assert later.steps() == [2, 3, 4]


def test_a_line_rolled_back_by_hand_decides_what_is_latest(run: Run) -> None:
    run.save(1, 2)
    state = run.store.get("run/checkpoint").replace(b'model_checkpoint_path: "m-2"', b'model_checkpoint_path: "m-1"', 1)
    run.store.replace("run/checkpoint", state)
    assert again(run).catalog.contents.latest() == run.catalog.contents.find(1)
