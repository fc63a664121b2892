from __future__ import annotations

from pathlib import Path

import pytest

from ckptd.engine.catalog.catalog import Catalog
from ckptd.engine.catalog.recovery import Fate, Recovery
from ckptd.engine.catalog.retention import Action, RetentionPolicy, Rule
from ckptd.engine.checkpoint import Checkpoint
from ckptd.errors import ConflictError, InvalidRequestError
from ckptd.storage.local.local_store import LocalStore
from ckptd.storage.memory import MemoryStore
from tests.fakes.catalog_run import Run, again
from tests.fakes.clock import HandClock
from tests.fakes.small_checkpoint import index_bytes, seed_of, shard_bytes


@pytest.fixture
def run() -> Run:
    clock = HandClock()
    return Run(MemoryStore("m", wall_s=clock.wall_s), clock)


def test_an_empty_run_has_nothing(run: Run) -> None:
    assert (run.catalog.contents.latest(), run.catalog.contents.checkpoints(), run.recovery) == (None, [], Recovery(()))
    assert run.catalog.contents.highest_epoch() == 0
    assert not run.catalog.exists("m", 1)
    assert run.files() == {}


def test_a_save_is_described_as_it_was(run: Run) -> None:
    record = run.begin(7)
    saved_at = run.clock.wall_s()
    done = run.commit(record, duration_s=1.5)
    assert done == Checkpoint(
        "memory://m/run/m-7", 7, 28, 2, saved_at, 1.5, False, record.save_id, run.store.durability
    )
    contents = run.catalog.contents
    assert contents.latest() == contents.find(7) == contents.find("m-7") == contents.find(done.prefix) == done
    assert run.catalog.exists("m", 7)
    run.catalog.retire()
    assert again(run).catalog.contents.checkpoints() == [done]
    assert again(run).catalog.contents.highest_epoch() == 4


def test_the_state_file_is_the_one_that_a_saver_writes(run: Run) -> None:
    run.save(1, 2, 3)
    assert run.store.get("run/checkpoint") == (
        b'model_checkpoint_path: "m-3"\nall_model_checkpoint_paths: "m-2"\nall_model_checkpoint_paths: "m-3"\n'
    )


def test_retention_goes_on_after_a_restart_where_it_stood(run: Run) -> None:
    run.save(1, 2)
    later = again(run)
    later.save(3)
    assert later.steps() == [2, 3]
    assert not [key for key in later.files() if "m-1" in key]
    lower = again(later, max_to_keep=1)
    lower.save(4)
    assert lower.steps() == [3, 4], "as with Saver, one goes for one that comes"
    lower = again(later, max_to_keep=1, hours=None, rule=Rule.MANAGER)
    lower.save(5)
    assert lower.steps() == [3, 4, 5], "a manager does not take over what a Saver left"
    lower.save(6)
    assert lower.steps() == [3, 4, 6]


def test_without_a_limit_only_the_latest_is_listed_and_all_are_there(run: Run) -> None:
    free = again(run, max_to_keep=0)
    free.save(1, 2, 3)
    assert free.store.get("run/checkpoint") == (b'model_checkpoint_path: "m-3"\nall_model_checkpoint_paths: "m-3"\n')
    assert free.steps() == again(free).steps() == [1, 2, 3]


def test_nothing_is_deleted_before_the_save_is_acknowledged(run: Run) -> None:
    run.save(1, 2)
    run.commit(run.begin(3))
    assert seed_of(run.files(), "run/m-1") == 1
    verdicts = run.catalog.retire()
    assert [(each.prefix, each.action) for each in verdicts] == [("memory://m/run/m-1", Action.DROP)]
    assert not [key for key in run.files() if "m-1" in key]


def test_one_being_read_goes_when_its_reader_has_gone(run: Run) -> None:
    run.save(1, 2)
    reading = ["memory://m/run/m-1"]
    run.commit(run.begin(3))
    [verdict] = run.catalog.retire(in_use=reading)
    assert (verdict.action, "read" in verdict.reason) == (Action.KEEP, True)
    assert seed_of(run.files(), "run/m-1") == 1
    run.commit(run.begin(4))
    run.catalog.retire(in_use=[*reading, "memory://m/run/m-2"])
    assert (seed_of(run.files(), "run/m-1"), seed_of(run.files(), "run/m-2")) == (1, 2)
    assert run.steps() == [3, 4], "the state file is what it would be without readers"
    run.catalog.retire()
    assert not [key for key in run.files() if "m-1" in key or "m-2" in key]


def test_an_overwrite_takes_fresh_keys_and_removes_the_old_shards(run: Run) -> None:
    run.save(1)
    run.save(1, seed=11, overwrite=True)
    assert seed_of(run.files(), "run/m-1") == 11
    assert sorted(key for key in run.files() if "data" in key) == [
        f"run/m-1.data-0000{shard}-of-00003" for shard in range(3)
    ]
    assert again(run).steps() == [1]


def test_saving_a_step_again_needs_to_be_asked_for(run: Run) -> None:
    run.save(1)
    record = run.begin(1, 11)
    with pytest.raises(ConflictError):
        run.commit(record, 11)
    run.catalog.abandon(record)
    assert seed_of(run.files(), "run/m-1") == 1
    assert run.files().keys() == again(run).files().keys()
    assert len([key for key in run.files() if "data" in key]) == 2


def test_shard_counts_are_fresh_for_every_attempt(run: Run) -> None:
    choose = run.catalog.choose_num_shards
    assert choose("m", 1, 2) == 2
    run.store.put("run/m-1.data-00000-of-00002", b"someone else's")
    run.store.put("run/m-1.index", index_bytes(1, 4))
    run.store.put("run/m-10.data-00000-of-00003", b"another step's")
    assert choose("m", 1, 2) == 3
    assert choose("m", 1, 4) == 5
    run.begin(1, shards=3)
    assert choose("m", 1, 2) == 5
    assert choose("m", 2, 2) == 2
    with pytest.raises(InvalidRequestError):
        choose("m", 1, 0)


def test_an_abandoned_save_leaves_nothing(run: Run) -> None:
    run.save(1)
    before = run.files()
    record = run.begin(2)
    assert run.catalog.abandon(record).fate is Fate.SWEEP
    assert run.files() == before
    assert run.catalog.abandon(record).fate is Fate.NOTHING
    with pytest.raises(ConflictError):
        run.commit(record)


def test_a_published_save_is_not_abandoned(run: Run) -> None:
    record = run.begin(1)
    run.commit(record)
    assert run.catalog.abandon(record).fate is Fate.NOTHING
    assert run.steps() == [1]


def test_saves_may_overlap_and_one_that_fails_costs_no_other(run: Run) -> None:
    first, second, third = run.begin(1), run.begin(2), run.begin(3)
    run.commit(first)
    run.catalog.abandon(second)
    run.catalog.retire()
    run.commit(third)
    assert run.steps() == [1, 3]
    assert [first.sequence, second.sequence, third.sequence] == [1, 2, 3]
    assert again(run).catalog.upkeep.sequences.next() == 4


def test_a_key_that_someone_else_has_is_refused_before_the_first_byte(run: Run) -> None:
    record = run.catalog.draft("m", 1, save_id="x", shard_sizes=[1, 1], meta_graph=True)
    for key in (record.shard_keys[1], record.meta_key):
        run.store.put(key, b"theirs")
        with pytest.raises(ConflictError) as caught:
            run.catalog.begin(record)
        assert caught.value.key == key
        run.store.delete([key])
    run.catalog.begin(record)
    with pytest.raises(ConflictError):
        run.catalog.begin(record)


def test_a_graph_comes_exactly_if_the_record_says_so(run: Run) -> None:
    plain, with_graph = run.begin(1), run.begin(2, meta=True)
    with pytest.raises(InvalidRequestError):
        run.commit(plain, meta_graph=b"graph")
    with pytest.raises(InvalidRequestError):
        run.commit(with_graph)
    run.commit(with_graph, meta_graph=b"graph")
    assert run.store.get("run/m-2.meta") == b"graph"


def test_a_checkpoint_without_a_step_is_found_by_its_prefix(run: Run) -> None:
    done = run.commit(run.begin(None, 5, name="final"), 5)
    assert (done.step, done.prefix) == (None, "memory://m/run/final")
    assert run.catalog.contents.find("final") == done
    assert run.catalog.exists("final", None)
    assert again(run).catalog.contents.latest() == done


def test_a_committed_save_of_a_dead_coordinator_is_adopted(run: Run) -> None:
    run.save(1)
    record = run.begin(2)
    run.store.put(record.index_key, index_bytes(2, 2))
    later = again(run)
    assert later.recovery.subjects(Fate.ADOPT) == ["memory://m/run/m-2"]
    assert later.steps() == [1, 2]
    assert later.catalog.contents.latest() == later.catalog.contents.find(2)
    assert again(later).recovery == Recovery(())


def test_an_adopted_save_takes_the_place_that_its_beginning_gives_it(run: Run) -> None:
    record = run.begin(1)
    run.save(2)
    run.store.put(record.index_key, index_bytes(1, 2))
    later = again(run)
    assert later.steps() == [1, 2]
    assert later.catalog.contents.latest() == later.catalog.contents.find(2)


def test_an_uncommitted_save_of_a_dead_coordinator_is_swept(run: Run) -> None:
    run.save(1)
    before = run.files()
    run.begin(2)
    later = again(run)
    assert later.recovery.subjects(Fate.SWEEP) == ["memory://m/run/m-2"]
    assert later.files() == before


def test_recovering_leaves_living_saves_alone(run: Run) -> None:
    record = run.begin(1)
    run.catalog.upkeep.recover()
    run.commit(record)
    assert run.steps() == [1]


def test_a_record_that_cannot_be_read_is_reported_and_stays(run: Run) -> None:
    run.store.put("run/.ckptd/m-1.x.json", b"{")
    later = again(run)
    assert later.recovery.subjects(Fate.LEAVE) == ["memory://m/run/.ckptd/m-1.x.json"]
    assert "run/.ckptd/m-1.x.json" in later.files()


def test_two_state_files_of_a_run_keep_to_themselves(run: Run) -> None:
    run.save(1, 2)
    other = again(run, latest_filename="best")
    assert other.catalog.contents.checkpoints() == []
    other.save(11, 12, 13)
    assert other.steps() == [12, 13]
    assert again(run).steps() == [1, 2]
    other.catalog.configure(RetentionPolicy(2), "checkpoint", False)
    assert other.catalog.upkeep.recover() == Recovery(())
    assert other.steps() == [1, 2]


def test_steps_may_be_padded(run: Run) -> None:
    padded = again(run, pad_step_number=True)
    done = padded.save(12)
    assert done.prefix == "memory://m/run/m-00000012"
    assert padded.catalog.exists("m", 12)
    assert again(padded).catalog.contents.latest() == done


def test_a_run_may_be_the_root_of_its_store() -> None:
    store, clock = MemoryStore("root"), HandClock()
    catalog = Catalog(store, "", clock=clock)
    record = catalog.draft("m", 1, save_id="x", shard_sizes=[16])
    catalog.begin(record)
    store.put("m-1.data-00000-of-00001", shard_bytes(1, 0))
    done = catalog.commit(record, index_bytes(1, 1))
    catalog.retire()
    assert done.prefix == "memory://root/m-1"
    assert [each.key for each in store.list("")] == [
        ".ckptd/m-1.x.json",
        "checkpoint",
        "m-1.data-00000-of-00001",
        "m-1.index",
    ]
    fresh = Catalog(store, "", clock=clock)
    assert fresh.upkeep.recover() == Recovery(())
    assert fresh.contents.checkpoints() == [done]


def test_what_others_write_for_a_save_under_way_is_swept_with_that_save_alone(tmp_path: Path) -> None:
    """By writers on other hosts, whose locks are not seen here."""
    run = Run(LocalStore(str(tmp_path)), HandClock())  # type: ignore[arg-type]
    saves = [run.begin(step) for step in (1, 2)]
    theirs = [tmp_path / "run" / f".m-{step}.data-00000-of-00002.{'0f' * 16}.ckptd-tmp" for step in (1, 2, 3)]
    for path in theirs:
        path.write_bytes(b"under way")
    run.catalog.abandon(saves[0])
    assert [path.exists() for path in theirs] == [False, True, False]
    run.catalog.upkeep.recover()
    assert theirs[1].exists()
    run.commit(saves[1])
    run.catalog.upkeep.recover()
    assert not theirs[1].exists()
