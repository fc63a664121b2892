from __future__ import annotations

from ckptd.engine.saves.listeners import Listeners
from tests.fakes.coordinator import checkpoint


def test_a_teller_that_was_overtaken_tells_nothing():
    """They run in a pool: the one of an older checkpoint may come to its turn after that of a newer one."""
    listeners, told = Listeners("runs/a"), []
    listeners.add(lambda found: told.append(found.step))
    for number in (1, 3, 2, 4):
        listeners.tell(checkpoint(number), number)
    assert told == [1, 3, 4]
