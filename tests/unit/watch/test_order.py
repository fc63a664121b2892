from __future__ import annotations

from concurrent.futures import Future

from ckptd.engine.saves.coordinator import Coordinator
from ckptd.storage.memory import MemoryStore
from tests.fakes.coordinator import checkpoint


def test_a_teller_that_was_overtaken_tells_nothing():
    """They run in a pool: the one of an older checkpoint may come to its turn after that of a newer one."""
    coordinator = Coordinator(MemoryStore("order"))
    coordinator.open()
    told = []
    coordinator.subscribe("runs/a", lambda found: told.append(found.step))
    with coordinator._runs.use("runs/a", create=True) as run:
        run._tell(checkpoint(1), 1, True, Future())
        run._tell(checkpoint(3), 3, True, Future())
        run._tell(checkpoint(2), 2, True, Future())
        run._tell(checkpoint(4), 4, True, Future())
    coordinator.close()
    assert told == [1, 3, 4]
