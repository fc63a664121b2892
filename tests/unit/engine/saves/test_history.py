"""The journal that keeps the history: whatever the store does, no save is held up, and what can be kept is kept."""

from __future__ import annotations

import threading
import time

import pytest

from ckptd.engine.catalog import past_saves
from ckptd.engine.journal import JournalEntry, Measured
from ckptd.engine.saves.history import History
from ckptd.errors import CorruptionError, StorageFullError, UnavailableError
from ckptd.storage.memory import MemoryStore
from tests.fakes.waiting import eventually, never

RUN = "runs/r"


def entry(step, outcome="committed", *, save_id=None, run=RUN, **told):
    measured = Measured(500, 2.0, {"move": 1.0}, None, {"grpc": 500}, world_size=1)
    named = {"save_id": save_id or f"s{step}", "prefix": f"model.ckpt-{step}", **told}
    return JournalEntry("save", outcome, run, step, details=named, measured=lambda: measured)


def stall(save_id, seconds, run=RUN):
    told = Measured(0, seconds, stall_s={"copying": seconds})
    return JournalEntry("stall", "done", run, details={"save_id": save_id}, is_recorded=False, measured=lambda: told)


def history(store, pause_s=0.0, again_s=0.01):
    made = History(lambda: 1000.0, pause_s=pause_s, again_s=again_s)
    made.begin(store)
    return made


def stored_steps(store, run=RUN):
    return [each.step for each in past_saves.read(store, run)]


class Troubled:
    """A store whose changes raise what `error` holds, or wait for `gate`."""

    def __init__(self, inner, error=None):
        self._inner, self.error = inner, error
        self.gate = threading.Event()
        self.gate.set()
        self.tries = 0

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def put(self, key, data):
        return self._change(self._inner.put, key, data)

    def replace(self, key, data, *, if_version=None):
        return self._change(lambda key, data: self._inner.replace(key, data, if_version=if_version), key, data)

    def _change(self, call, key, data):
        self.tries += 1
        assert self.gate.wait(60)
        if self.error is not None:
            raise self.error
        return call(key, data)


def test_the_next_daemon_goes_on_with_what_the_one_before_has_kept():
    store = MemoryStore()
    for steps in ((1, 2), (3,)):
        kept = history(store)
        for step in steps:
            kept.ended(entry(step))
        kept.ended(entry(step, "begun"))
        kept.close()
    assert [(each.step, each.outcome, each.began_at) for each in history(store).saves(RUN)] == [
        (step, "committed", 998.0) for step in (1, 2, 3)
    ]


def test_what_failed_is_kept_with_its_reason():
    kept = History()
    kept.ended(entry(1, "aborted", error="SessionAbortedError", reason="rank 3 of 4 has not declared its tensors"))
    kept.ended(entry(2, "aborted", error="StorageFullError", reason="no space"))
    assert [(each.outcome, each.culprit) for each in kept.saves(RUN)] == [
        ("aborted", "rank 3 of 4 has not declared its tensors"),
        ("failed", "no space"),
    ]


def test_a_stall_may_be_told_before_and_after_its_save_has_ended():
    store = MemoryStore()
    kept = history(store)
    kept.ended(stall("s1", 0.5))
    kept.ended(stall("s1", 0.2))
    kept.ended(stall("s1", 9.0, run="runs/other"))
    kept.ended(entry(1))
    assert kept.saves(RUN)[0].total_stall_s == 0.5
    kept.ended(stall("s1", 0.7))
    kept.ended(stall("", 7.0))  # of an older client
    kept.close()
    assert past_saves.read(store, RUN)[0].stall_s == {"copying": 0.7}


def test_stalls_of_saves_that_never_end_take_no_room():
    kept = History()
    for number in range(3000):
        kept.ended(stall(f"s{number}", 1.0))
    assert kept.in_memory[1] <= 1000


@pytest.mark.parametrize("error", [StorageFullError("full"), UnavailableError("gone"), RuntimeError("a bug")])
def test_a_store_that_fails_is_tried_again_and_told_once(error, caplog):
    store = Troubled(MemoryStore(), error)
    kept = history(store)
    kept.ended(entry(1))
    eventually(lambda: store.tries > 2)
    assert [each.step for each in kept.saves(RUN)] == [1]
    assert sum("cannot be kept now" in record.message for record in caplog.records) == 1
    store.error = None
    eventually(lambda: stored_steps(store) == [1])
    kept.close()


def test_a_store_that_hangs_holds_up_neither_a_save_nor_the_end():
    store = Troubled(MemoryStore())
    store.gate.clear()
    kept = history(store)
    kept.ended(entry(1))
    eventually(lambda: store.tries == 1)
    kept.ended(entry(2))
    kept.ended(stall("s2", 0.1))
    assert [each.step for each in kept.saves(RUN)] == [1, 2]
    store.gate.set()
    kept.close()
    assert stored_steps(store) == [1, 2]


def test_a_damaged_history_is_replaced(monkeypatch):
    store = MemoryStore()
    store.put(past_saves.key_of(RUN), b"\x00\xffjunk\n" + b"0" * 100)
    kept = history(store)
    kept.ended(entry(1))
    kept.close()
    assert stored_steps(store) == [1]


def test_two_owners_of_a_run_lose_nothing_of_each_other():
    store = MemoryStore(has_locks=False)
    first, second = history(store), history(store)
    for step in range(1, 20, 2):
        first.ended(entry(step))
        second.ended(entry(step + 1))
    first.close()
    second.close()
    assert sorted(stored_steps(store)) == list(range(1, 21))


def test_many_saves_at_once_cost_few_writes():
    store = Troubled(MemoryStore())
    kept = history(store, pause_s=60)
    for step in range(1000):
        kept.ended(entry(step))
    never(lambda: store.tries)
    kept.close()
    assert store.tries == 1
    assert len(stored_steps(store)) == past_saves.MOST_SAVES


def test_of_many_runs_only_some_stay_in_memory_and_all_in_the_store():
    store = MemoryStore()
    kept = history(store)
    for number in range(150):
        kept.ended(entry(1, run=f"runs/{number}"))
    eventually(lambda: all(stored_steps(store, f"runs/{number}") for number in range(150)))
    kept.ended(entry(2, run="runs/0"))
    assert kept.in_memory[0] <= 65
    assert [each.step for each in kept.saves("runs/0")] == [1, 2]
    assert [each.step for each in kept.saves("runs/1")] == [1]
    kept.close()


def test_reading_a_run_without_a_history_leaves_nothing_in_memory():
    kept = history(MemoryStore())
    assert kept.saves("runs/none") == []
    assert kept.in_memory == (0, 0)
    kept.close()


def test_hearing_of_a_save_takes_microseconds():
    kept, before = History(), time.thread_time()
    for step in range(2000):
        kept.ended(entry(step))
    assert (time.thread_time() - before) / 2000 < 0.001


def test_an_object_that_another_has_removed_meanwhile_is_written_anew():
    store = MemoryStore()
    kept = history(store)
    kept.ended(entry(1))
    eventually(lambda: stored_steps(store) == [1])
    store.delete([past_saves.key_of(RUN)])
    kept.ended(entry(2))
    kept.close()
    assert stored_steps(store) == [1, 2]
    with pytest.raises(CorruptionError):
        past_saves.PastSave.decode(b"")
