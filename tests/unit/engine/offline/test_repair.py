"""A state file that is lost or wrong is built anew from what lies complete on disk, and nothing else is touched."""

from __future__ import annotations

import pytest

from ckptd.engine.offline.repair import repair
from ckptd.errors import ConflictError, NotFoundError
from ckptd.format.state_file import CheckpointState
from ckptd.storage.memory import MemoryStore
from tests.fakes.catalog_run import Run
from tests.fakes.clock import HandClock
from tests.fakes.small_checkpoint import index_bytes, shard_bytes

STATE = "run/checkpoint"


@pytest.fixture
def run() -> Run:
    clock = HandClock()
    run = Run(MemoryStore("m", wall_s=clock.wall_s), clock, max_to_keep=3)
    run.save(30, 10, 20)
    return run


def state(run: Run) -> CheckpointState:
    return CheckpointState.decode(run.store.get(STATE))


@pytest.mark.parametrize("text", [b"garbage {", b"", b'model_checkpoint_path: "nothing"\n', None])
def test_a_lost_history_is_found_again_in_the_order_of_the_saves(run: Run, text: bytes | None) -> None:
    before = state(run)
    if text is None:
        run.store.delete([STATE])
    else:
        run.store.replace(STATE, text)
    repaired = repair(run.store, "run")
    assert (repaired.is_changed, bool(repaired.reason)) == (True, True)
    assert state(run) == before
    assert repaired.prefixes == tuple(f"memory://m/run/m-{step}" for step in (30, 10, 20))
    if text:
        assert repaired.kept_at is not None
        assert run.store.get(repaired.kept_at.removeprefix("memory://m/")) == text
    assert not repair(run.store, "run").is_changed
    assert Run(run.store, run.clock).steps() == [30, 10, 20]


def test_what_is_not_complete_is_left_out_and_the_rest_stays_as_it_was(run: Run) -> None:
    run.store.delete(["run/m-20.data-00001-of-00002", "run/m-30.index"])
    text = b'model_checkpoint_path: "m-20"\nall_model_checkpoint_paths: ["m-30", "m-10", "/far/m-5", "m-20"]\n'
    run.store.replace(STATE, text)
    repaired = repair(run.store, "run")
    assert state(run) == CheckpointState("m-10", ("m-10",))
    assert {prefix.rpartition("/")[2] for prefix, _ in repaired.left_out} == {"m-20", "m-30"}


def test_times_stay_with_their_paths(run: Run) -> None:
    run.store.replace(STATE, CheckpointState("m-20", ("m-9", "m-10", "m-20"), (1.0, 2.0, 3.0), 0.5).encode())
    repair(run.store, "run")
    assert state(run) == CheckpointState("m-20", ("m-10", "m-20"), (2.0, 3.0), 0.5)


def test_a_state_file_that_is_right_is_not_touched(run: Run) -> None:
    before = run.store.stat(STATE).version
    assert not repair(run.store, "run").is_changed
    assert run.store.stat(STATE).version == before


def test_what_retention_kept_for_good_does_not_come_back_into_the_list(run: Run) -> None:
    free = Run(run.store, run.clock, max_to_keep=0)
    free.save(40, 50, 60)
    run.store.delete([STATE])
    repair(run.store, "run")
    assert state(run).all_model_checkpoint_paths == ("m-30", "m-10", "m-20", "m-60")


def test_files_that_another_program_wrote_count_too() -> None:
    store = MemoryStore("m", wall_s=HandClock().wall_s)
    for step in (5, 40):
        store.put(f"run/x-{step}.index", index_bytes(step, 1))
        store.put(f"run/x-{step}.data-00000-of-00001", shard_bytes(step, 0))
    assert repair(store, "run", "latest").prefixes == ("memory://m/run/x-5", "memory://m/run/x-40")


def test_without_a_complete_checkpoint_nothing_is_changed(run: Run) -> None:
    run.store.delete([f"run/m-{step}.index" for step in (10, 20, 30)])
    run.store.replace(STATE, b"garbage")
    with pytest.raises(NotFoundError, match="no complete checkpoint"):
        repair(run.store, "run")
    assert run.store.get(STATE) == b"garbage"


def test_nobody_repairs_while_somebody_saves(run: Run) -> None:
    with run.store.lock("run/.ckptd/lock", holder="a trainer"), pytest.raises(ConflictError):
        repair(run.store, "run")
