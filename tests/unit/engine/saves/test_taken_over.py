"""In a store without locks a run may be taken over from its owner: whatever finds out raises the same error."""

from __future__ import annotations

import pytest

from ckptd.engine.catalog.catalog import Catalog
from ckptd.engine.saves.coordinator import Coordinator
from ckptd.errors import ConflictError
from ckptd.storage.memory import MemoryStore
from tests.fakes.clock import HandClock
from tests.fakes.job import WAIT_S, Rank, save_all


@pytest.mark.parametrize("is_looked_at", [True, False], ids=["by its look", "by the commit"])
def test_a_save_under_way_when_its_run_is_taken_over_ends_in_a_conflict_whoever_finds_out(is_looked_at: bool) -> None:
    store, clock = MemoryStore(has_locks=False), HandClock()
    owner = Coordinator(store, clock=clock)
    owner.open()
    former = Rank(owner, 0, 1).join()
    save_all([former], 1)
    former.declare(2)
    former.assignment(2)
    Catalog(store, former.run, clock=clock, holder="another").upkeep.recover()
    clock.advance(10.0)
    if is_looked_at:
        owner.tick()
    else:
        former.send(2)
    with pytest.raises(ConflictError, match="taken over") as told:
        former.outcome(2)
    assert "while saving step 2 of runs/r" in told.value.__notes__
    with pytest.raises(ConflictError, match="taken over"):
        former.declare(4).result(WAIT_S)
    owner.close()
