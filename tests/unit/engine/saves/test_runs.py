"""Runs are opened when they are needed, closed when they rest, and never made by a question."""

from __future__ import annotations

import threading

import pytest

from ckptd.engine.saves.coordinator import Coordinator
from ckptd.engine.settings import Settings
from ckptd.errors import ConflictError, NotFoundError, UnavailableError
from ckptd.storage.memory import MemoryStore
from tests import seams
from tests.fakes.clock import HandClock
from tests.fakes.hooked_store import HookedStore
from tests.fakes.job import WAIT_S, Rank, save_all

IDLE_S = Settings().idle_s


class Place:
    """A coordinator over a store, with a clock that is wound by hand."""

    def __init__(self, store=None, **settings):
        self.clock = HandClock()
        self.store = store or MemoryStore("m", wall_s=self.clock.wall_s)
        self.coordinator = Coordinator(self.store, settings=Settings(**settings), clock=self.clock)
        self.coordinator.open()

    def open_runs(self):
        return [view.run for view in self.coordinator.runs() if not view.quarantined]

    def rest(self, seconds=IDLE_S + 1):
        for pause in (0.0, seconds, 0.0):
            self.clock.advance(pause)
            self.coordinator.tick()
        assert self.coordinator.settle(WAIT_S)


@pytest.fixture
def place():
    place = Place()
    yield place
    place.coordinator.close()


def test_a_question_makes_no_run(place):
    before, coordinator = [stat.key for stat in place.store.list("")], place.coordinator
    assert coordinator.latest("no/such") is None
    assert coordinator.checkpoints("no/such") == []
    with pytest.raises(NotFoundError):
        coordinator.in_catalog("no/such", lambda stored: pytest.fail(f"there is {stored}"))
    for number in range(50):
        coordinator.subscribe(f"no/such/{number}", print)()
    place.coordinator.leave("no/such", Rank(coordinator, 0, 1).member, 1)
    assert place.open_runs() == []
    assert [stat.key for stat in place.store.list("")] == before


def test_a_run_that_rests_is_closed_and_opened_again_where_it_was(place):
    rank = Rank(place.coordinator, 0, 1).join()
    save_all([rank], 1)
    place.rest()
    assert place.open_runs() == ["runs/r"], "a member is there"
    place.coordinator.leave("runs/r", rank.member, rank.epoch)
    place.rest(IDLE_S / 2)
    assert place.open_runs() == ["runs/r"]
    place.rest()
    assert place.open_runs() == []
    assert place.coordinator.latest("runs/r").step == 1
    second = Rank(place.coordinator, 0, 1, life="b").join()
    assert second.epoch == rank.epoch + 1
    save_all([second], 2)
    assert [one.step for one in place.coordinator.checkpoints("runs/r")] == [1, 2]


def test_a_run_stays_open_for_members_watchers_readers_and_what_is_to_be_swept(place):
    rank = Rank(place.coordinator, 0, 1).join()
    for step in (1, 2):
        save_all([rank], step)
    rank.disconnect()
    unsubscribe = place.coordinator.subscribe("runs/r", print)
    place.rest()
    assert place.open_runs() == ["runs/r"], "somebody watches"
    unsubscribe()
    place.coordinator.in_catalog("runs/r", lambda stored: stored.delete(1))
    place.rest()
    assert place.open_runs() == ["runs/r"], "a deletion can be undone, and is swept later"
    place.rest(Settings().undo_s)
    place.coordinator.note_read("runs/r/model.ckpt-2.index")
    place.rest(1.0)
    assert place.open_runs() == ["runs/r"], "somebody reads"
    place.rest()
    place.rest()
    assert place.open_runs() == []


def test_a_watcher_hears_of_a_run_that_is_made_later(place):
    heard = []
    place.coordinator.subscribe("runs/r", lambda checkpoint: heard.append(checkpoint.step))
    rank = Rank(place.coordinator, 0, 1).join()
    save_all([rank], 5)
    assert place.coordinator.settle(WAIT_S)
    assert heard == [5]


def test_any_number_of_runs_but_only_so_many_at_once():
    place = Place(open_runs=3)
    for number in range(10):
        rank = Rank(place.coordinator, 0, 1, run=f"done/{number}").join()
        place.coordinator.leave(rank.run, rank.member, rank.epoch)
    assert len(place.open_runs()) <= 3
    for number in range(3):
        Rank(place.coordinator, 0, 1, run=f"live/{number}").join()
    with pytest.raises(UnavailableError, match="3 runs are in use at once"):
        Rank(place.coordinator, 0, 1, run="live/4").join()
    place.coordinator.close()


def test_who_has_not_joined_a_run_that_is_not_there_is_told_to(place):
    rank = Rank(place.coordinator, 0, 1)
    with pytest.raises(ConflictError, match="must join first"):
        rank.declare(1).result(WAIT_S)
    assert place.open_runs() == []


class SlowRun(HookedStore):
    """A store in which one run cannot be looked at until `go_on` is set."""

    def __init__(self):
        super().__init__(MemoryStore("slow"))
        self.go_on = threading.Event()
        self.reached = threading.Event()

    def list(self, directory, **how):
        if directory.startswith("slow"):
            self.reached.set()
            assert self.go_on.wait(WAIT_S)
        return self._inner.list(directory, **how)


def test_a_run_that_is_slow_to_open_holds_up_no_other(monkeypatch):

    seams.RUN_OPENING_S.put(monkeypatch, 0.05)
    store = SlowRun()
    place = Place(store)
    opening = place.coordinator.when_open("slow/run")
    try:
        assert store.reached.wait(WAIT_S)
        assert place.coordinator.latest("quick/run") is None
        save_all([Rank(place.coordinator, 0, 1).join()], 1)
        with pytest.raises(UnavailableError, match=r"'slow/run' is still being opened"):
            place.coordinator.latest("slow/run")
        assert not opening.done()
    finally:
        store.go_on.set()
    opening.result(WAIT_S)
    assert place.coordinator.latest("slow/run") is None
    place.coordinator.close()


def test_what_a_crash_left_is_finished_though_nobody_asks_for_the_run(place):
    rank = Rank(place.coordinator, 0, 1).join()
    save_all([rank], 1)
    rank.declare(2)
    rank.send(2, part=0.5)
    left = MemoryStore("left")
    for stat in place.store.list(""):
        left.put(stat.key, place.store.get(stat.key))
    crashed = Place(left)
    assert [stat.key for stat in left.list("runs/r/.ckptd") if "ckpt-2" in stat.key]
    crashed.coordinator.inspect()
    assert crashed.coordinator.is_inspected(WAIT_S)
    assert not [stat.key for stat in left.list("runs/r/.ckptd") if "ckpt-2" in stat.key]
    assert crashed.coordinator.settle(WAIT_S)
    assert crashed.open_runs() == []
    crashed.coordinator.close()


def test_of_two_ranks_that_found_a_run_at_once_none_is_refused():
    others = [1]

    class Late(MemoryStore):
        """Looks into the run only once the other rank has founded it."""

        def list(self, directory, *, deep=True):
            if directory == "runs/r" and others:
                Rank(coordinator, others.pop(), 2).join()
            return super().list(directory, deep=deep)

    coordinator = Coordinator(Late())
    coordinator.open()
    assert Rank(coordinator, 0, 2).join().epoch
    assert not others
    coordinator.close()
