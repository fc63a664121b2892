"""Quarantine as the catalog keeps it: durable step by step, out of every list, and never retention's to delete."""

from __future__ import annotations

import pytest

from ckptd.engine.catalog.recovery import Fate
from ckptd.storage.memory import MemoryStore
from tests.fakes.catalog_run import Run
from tests.fakes.clock import HandClock
from tests.fakes.small_checkpoint import listed_in


@pytest.fixture
def run() -> Run:
    clock = HandClock()
    run = Run(MemoryStore("m", wall_s=clock.wall_s), clock, max_to_keep=3)
    run.save(1, 2, 3)
    return run


def save_id(run: Run, step: int) -> str:
    return run.catalog.contents.find(step).save_id


class _CrashError(Exception):
    pass


@pytest.mark.parametrize("at", ["quarantine.record", "quarantine.state", "publish.state", "publish.read_back"])
def test_a_crash_at_any_step_leaves_it_listed_or_quarantined(run: Run, at: str) -> None:
    def crash(step: str) -> None:
        if step == at:
            raise _CrashError

    dying = Run(run.store, run.clock, max_to_keep=3, on_step=crash)
    with pytest.raises(_CrashError):
        dying.catalog.edits.quarantine(save_id(run, 3), "bad", "me")
    later = Run(run.store, run.clock, max_to_keep=3)
    if at == "quarantine.record":
        assert later.steps() == [1, 2, 3]
        return
    assert later.steps() == [1, 2]
    assert listed_in(run.files(), "run") == ["run/m-1", "run/m-2"]
    assert [record.step for record in later.catalog.contents.quarantined()] == [3]
    assert "run/m-3.index" in run.files()


def test_the_only_one_keeps_its_state_file(run: Run) -> None:
    for step in (3, 2, 1):
        assert run.catalog.edits.quarantine(save_id(run, step), f"bad {step}", "me")
    assert run.steps() == []
    assert listed_in(run.files(), "run") == ["run/m-1"]
    again = Run(run.store, run.clock, max_to_keep=3)
    assert again.steps() == []
    assert not again.recovery.subjects(Fate.DROP)
    again.save(4)
    assert listed_in(run.files(), "run") == ["run/m-4"]
    assert {"run/m-1.index", "run/m-2.index", "run/m-3.index"} <= set(run.files())


def test_repeating_it_changes_nothing_and_lifting_it_brings_it_back(run: Run) -> None:
    three = save_id(run, 3)
    assert run.catalog.edits.quarantine(three, "bad", "me")
    assert not run.catalog.edits.quarantine(three, "bad again", "me")
    assert run.catalog.edits.lift_quarantine(three).step == 3
    assert run.steps() == [1, 2, 3]
    assert Run(run.store, run.clock, max_to_keep=3).steps() == [1, 2, 3]
