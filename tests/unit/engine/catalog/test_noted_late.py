"""In a store without locks: an owner that was taken over from notes a save late, under the keys of another save."""

from __future__ import annotations

import pytest

from ckptd.engine.catalog.recovery import Fate
from ckptd.errors import ConflictError
from ckptd.storage.memory import MemoryStore
from tests.fakes.catalog_run import Run
from tests.fakes.clock import HandClock
from tests.fakes.hooked_store import HookedStore
from tests.fakes.small_checkpoint import seed_of

CLOCK = HandClock()


def notes(run: Run) -> list[str]:
    return [key for key in run.files() if key.startswith("run/.ckptd/m-2.") and key.endswith(".json")]


def note_late(store: MemoryStore, meanwhile) -> None:
    """Let an owner hang in the request that notes step 2, until `meanwhile` is over: then it is a former owner."""

    def hang(number: int, what: str) -> None:
        if what.startswith("put run/.ckptd/m-2."):
            meanwhile()

    former = Run(HookedStore(store, before=hang), CLOCK)  # type: ignore[arg-type]
    former.save(1)
    with pytest.raises(ConflictError):  # its keys are taken
        former.begin(2, seed=7)


@pytest.mark.parametrize("is_noted", [False, True], ids=["just published", "noted as published"])
def test_what_its_successor_has_published_stays(is_noted):
    store = MemoryStore(has_locks=False, verifies_writes=True, wall_s=CLOCK.wall_s)

    def succeed() -> None:
        successor = Run(store, CLOCK)
        successor.commit(successor.begin(2))
        if is_noted:
            successor.catalog.retire()

    note_late(store, succeed)
    next_one = Run(store, CLOCK)
    assert seed_of(next_one.files(), "run/m-2") == 2
    assert [each.fate for each in next_one.recovery.outcomes if "noted it late" in each.reason] == [Fate.FORGET]
    assert len(notes(next_one)) == 1
    assert next_one.steps() == [1, 2]


def test_what_its_successor_is_writing_stays():
    store = MemoryStore(has_locks=False, verifies_writes=True, wall_s=CLOCK.wall_s)
    successors = []

    def succeed() -> None:
        successors.append(successor := Run(store, CLOCK))
        successors.append(successor.begin(2))

    note_late(store, succeed)
    successor, record = successors
    successor.catalog.upkeep.recover()
    successor.commit(record)
    assert seed_of(successor.files(), "run/m-2") == 2
