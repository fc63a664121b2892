from __future__ import annotations

from concurrent.futures import Future

from ckptd.engine.clock import SystemClock
from ckptd.engine.journal import NO_JOURNAL
from ckptd.engine.saves.after_publishing import AfterPublishing
from ckptd.engine.saves.listeners import Listeners
from ckptd.engine.saves.readers import Readers
from ckptd.engine.saves.run_journal import RunJournal
from ckptd.engine.saves.served_catalog import ServedCatalog
from ckptd.engine.saves.shares import Share, Shares
from ckptd.storage.memory import MemoryStore
from tests.fakes.coordinator import checkpoint


def test_what_follows_an_older_publication_tells_nothing_after_that_of_a_newer_one():
    """They run in a pool, side by side."""
    store, listeners = MemoryStore("order"), Listeners("runs/a")
    stored = ServedCatalog(
        store,
        "runs/a",
        clock=SystemClock(),
        undo_s=0.0,
        holder="a test",
        life=None,
        readers=Readers(),
        notes_rest=False,
        on_look=lambda save_ids: None,
        on_rolled_back=lambda found: None,
        journal=RunJournal(NO_JOURNAL, "runs/a"),
    )
    stored.open()
    told, pool, retired = [], [], [Future() for _ in range(4)]
    listeners.add(lambda found: told.append(found.step))
    after = AfterPublishing("runs/a", store, stored, listeners, Share(Shares(pool.append, 4), "runs/a"))
    for number, done in enumerate(retired, 1):
        after.begin(checkpoint(number), is_listed=True, retired=done)
    for turn in (0, 2, 1, 3):
        pool[turn]()
    assert told == [1, 3, 4]
    assert all(done.done() for done in retired)
