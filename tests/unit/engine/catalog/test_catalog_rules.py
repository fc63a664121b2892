"""Which rule recovery follows, and saves that no state file names."""

from __future__ import annotations

import pytest

from ckptd.engine.catalog.recovery import Fate
from ckptd.engine.catalog.retention import Rule
from ckptd.format.state_file import CheckpointState
from ckptd.storage.memory import MemoryStore
from tests.fakes.catalog_run import Run, again
from tests.fakes.clock import HandClock
from tests.fakes.small_checkpoint import index_bytes, seed_of, shard_bytes


@pytest.fixture
def run() -> Run:
    clock = HandClock()
    return Run(MemoryStore("m", wall_s=clock.wall_s), clock)


def test_recovery_publishes_in_the_sense_of_the_trainer_that_began(run: Run) -> None:
    """A daemon that starts knows no trainer's options yet: with its own default it would let go what was to be kept."""
    many = again(run, max_to_keep=8)
    many.save(*range(1, 9))
    record = many.begin(9)
    many.store.put(record.index_key, index_bytes(9, 2))
    started = Run(run.store, run.clock, max_to_keep=1)
    assert started.recovery.subjects(Fate.ADOPT) == ["memory://m/run/m-9"]
    assert started.steps() == [2, 3, 4, 5, 6, 7, 8, 9]


def test_a_manager_s_list_is_recovered_as_one(run: Run) -> None:
    managed = again(run, max_to_keep=2, hours=None, rule=Rule.MANAGER)
    managed.save(1, 2)
    record = managed.begin(3)
    managed.store.put(record.index_key, index_bytes(3, 2))
    before = CheckpointState.decode(run.store.get("run/checkpoint"))
    started = again(run)
    after = CheckpointState.decode(run.store.get("run/checkpoint"))
    assert started.steps() == [2, 3]
    assert after.all_model_checkpoint_timestamps[0] == before.all_model_checkpoint_timestamps[1]
    assert after.last_preserved_timestamp == before.last_preserved_timestamp > 0


def test_an_unlisted_save_leaves_the_state_file_alone_also_after_a_crash(run: Run) -> None:
    run.save(1)
    before = run.store.get("run/checkpoint")
    count = run.catalog.choose_num_shards("m", 2, 1)
    for step in (2, 3):
        sizes = [len(shard_bytes(step, shard)) for shard in range(count)]
        record = run.catalog.draft("m", step, save_id=f"u{step}", shard_sizes=sizes, write_state=False)
        run.catalog.begin(record)
        for shard, key in enumerate(record.shard_keys):
            run.store.put(key, shard_bytes(step, shard))
        if step == 2:
            run.commit(record)
            run.catalog.retire()
        else:
            run.store.put(record.index_key, index_bytes(step, count))
    later = again(run)
    assert later.recovery.subjects(Fate.CONFIRM) == ["memory://m/run/m-3"]
    assert run.store.get("run/checkpoint") == before
    later.save(4, 5, 6)
    assert later.steps() == again(later).steps() == [2, 3, 5, 6]


def test_an_unlisted_save_may_replace_a_listed_one(run: Run) -> None:
    run.save(1, 2)
    before = run.store.get("run/checkpoint")
    count = run.catalog.choose_num_shards("m", 1, 1)
    sizes = [len(shard_bytes(11, shard)) for shard in range(count)]
    record = run.catalog.draft("m", 1, save_id="u", shard_sizes=sizes, write_state=False)
    run.catalog.begin(record)
    for shard, key in enumerate(record.shard_keys):
        run.store.put(key, shard_bytes(11, shard))
    run.commit(record, 11, overwrite=True)
    run.catalog.retire()
    assert run.store.get("run/checkpoint") == before
    assert seed_of(run.files(), "run/m-1") == 11
    assert run.steps() == again(run).steps() == [1, 2]
    run.save(3)
    assert run.steps() == [2, 3]
