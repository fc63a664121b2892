"""The note of a run at rest saves requests, and never hides that something has changed."""

from __future__ import annotations

import pytest

from ckptd.engine.catalog.rest import RestNote
from ckptd.engine.identity import RunOptions
from ckptd.engine.saves.coordinator import Coordinator
from ckptd.errors import CkptdError, ConflictError, CorruptionError
from ckptd.storage.memory import MemoryStore
from tests.fakes.clock import HandClock
from tests.fakes.job import WAIT_S, Rank, save_all

NOTE = "runs/r/.ckptd/at-rest"


class Counting:
    """A store that counts what it is asked."""

    def __init__(self, inner):
        self._inner = inner
        self.calls = []

    def __getattr__(self, name):
        found = getattr(self._inner, name)
        if not callable(found) or name in ("location", "free_bytes"):
            return found

        def counted(*arguments, **named):
            self.calls.append((name, *arguments[:1]))
            return found(*arguments, **named)

        return counted


def opened(store):
    coordinator = Coordinator(store, clock=HandClock())
    coordinator.open()
    return coordinator


@pytest.fixture
def store():
    """A bucket with one run at rest, of three listed checkpoints, one of them pinned."""
    store = MemoryStore(has_locks=False, verifies_writes=True, wall_s=HandClock().wall_s)
    coordinator = opened(store)
    rank = Rank(coordinator, 0, 1, options=RunOptions(max_to_keep=2)).join()
    for step in (1, 2, 3):
        save_all([rank], step)
        coordinator.in_catalog("runs/r", lambda stored: stored.pin(1, True))
    assert coordinator.settle(WAIT_S)
    coordinator.close()
    assert store.get(NOTE)
    return store


def seen(store):
    """What a new owner says of the run, and how it answers a new save."""
    coordinator = opened(store)
    try:
        latest, all_of_it = coordinator.latest("runs/r"), coordinator.checkpoints("runs/r")
        rank = Rank(coordinator, 0, 1, options=RunOptions(max_to_keep=2)).join()
        epoch = rank.epoch
        save_all([rank], 9)
        assert coordinator.settle(WAIT_S)
        return latest, all_of_it, epoch, [(one.step, one.pinned) for one in coordinator.checkpoints("runs/r")]
    except CkptdError as error:
        return type(error), error.key
    finally:
        coordinator.close()


def copied(store, *, without=()):
    other = MemoryStore(has_locks=False, verifies_writes=True, wall_s=HandClock().wall_s)
    for stat in store.list(""):
        if stat.key not in without:
            other.put(stat.key, store.get(stat.key))
    return other


def renote(store):
    """Let a daemon note the rest of a copied run anew: versions are of the store that gave them."""
    coordinator = opened(store)
    coordinator.latest("runs/r")
    coordinator.close()
    assert store.get(NOTE)
    return store


def test_opening_a_run_at_rest_takes_a_list_a_look_and_the_fence(store):
    counting = Counting(store)
    coordinator = opened(counting)
    counting.calls.clear()
    assert coordinator.latest("runs/r").step == 3
    assert [call[0] for call in counting.calls] == ["list", "get", "replace"]
    coordinator.close()


def test_the_note_tells_what_recovery_would(store):
    with_note, without_note = renote(copied(store)), copied(store, without=(NOTE,))
    assert seen(with_note) == seen(without_note)


def first(store, ending):
    return next(stat.key for stat in store.list("runs/r") if stat.key.endswith(ending))


CHANGES = {
    "index gone": lambda store: store.delete(["runs/r/model.ckpt-3.index"]),
    "index of another": lambda store: store.replace(
        "runs/r/model.ckpt-3.index", store.get("runs/r/model.ckpt-2.index")
    ),
    "shard gone": lambda store: store.delete([first(store, "data-00000-of-00001")]),
    "state file edited": lambda store: store.replace("runs/r/checkpoint", b'model_checkpoint_path: "model.ckpt-2"\n'),
    "state file gone": lambda store: store.delete(["runs/r/checkpoint"]),
    "state file damaged": lambda store: store.replace("runs/r/checkpoint", b"rubbish {"),
    "record gone": lambda store: store.delete([first(store, ".json")]),
    "record damaged": lambda store: store.replace(first(store, ".json"), b"{"),
    "epoch higher": lambda store: store.replace("runs/r/.ckptd/epoch", b"77"),
    "something more": lambda store: store.put("runs/r/model.ckpt-4.data-00000-of-00001", b"x"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_after_any_change_the_note_counts_for_nothing(store, change):
    with_note = renote(copied(store))
    CHANGES[change](with_note)
    without_note = copied(with_note, without=(NOTE,))
    assert seen(with_note) == seen(without_note)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b"[" * 100_000, b'{"format": 1}', b'{"format": 2}', b"\xff", b"9" * 5000]
)
def test_what_is_no_note_counts_for_nothing(store, data):
    with pytest.raises(CorruptionError):
        RestNote.decode(data, NOTE)
    without_note = copied(store, without=(NOTE,))
    store.replace(NOTE, data)
    assert seen(store)[1:] == seen(without_note)[1:]


def test_a_run_with_something_left_to_do_is_not_noted(store):
    store.delete([NOTE])
    coordinator = opened(store)
    coordinator.in_catalog("runs/r", lambda stored: stored.delete(2))
    coordinator.close()
    assert NOTE not in [stat.key for stat in store.list("runs/r")]


class OfAnotherHost(Counting):
    """A store in which a lock keeps nobody out."""

    def __init__(self, inner, clock):
        super().__init__(inner)
        self._clock = clock

    def lock(self, key, **how):
        return MemoryStore("elsewhere", has_locks=False, wall_s=self._clock.wall_s).lock(key, **how)


def test_a_former_owner_notes_nothing(store):
    former, new = (opened(OfAnotherHost(store, HandClock())) for _ in range(2))
    former.latest("runs/r")
    new.latest("runs/r")
    before = store.get(NOTE)
    former.close()
    assert store.get(NOTE) == before
    new.close()


@pytest.fixture
def two_daemons():
    """A store of another host, its clock, a daemon that has saved and closed its run, and one that comes later."""
    clock = HandClock()
    store = OfAnotherHost(MemoryStore(has_locks=False, verifies_writes=True, wall_s=clock.wall_s), clock)
    former = Coordinator(store, clock=clock)
    former.open()
    rank = Rank(former, 0, 1).join()
    save_all([rank], 1)
    former.leave("runs/r", rank.member, rank.epoch)
    for _ in range(3):
        clock.advance(61)
        former.tick()
    assert former.settle(WAIT_S)
    assert former.runs() == []
    new = Coordinator(store, clock=clock)
    new.open()
    clock.advance(60)
    yield former, new
    new.close()
    former.close()


def test_a_run_that_was_closed_is_opened_again_by_its_daemon(two_daemons):
    former, _ = two_daemons
    assert former.latest("runs/r").step == 1


def test_a_run_that_was_taken_over_while_it_was_closed_is_not_taken_back(two_daemons):
    former, new = two_daemons
    rank = Rank(new, 0, 1, life="b").join()
    for _ in range(2):
        with pytest.raises(ConflictError, match="taken over by another owner"):
            former.latest("runs/r")
    save_all([rank], 2)
    assert new.latest("runs/r").step == 2
    with pytest.raises(ConflictError, match="taken over by another owner"):
        Rank(former, 0, 1, life="c").join()


def test_a_run_that_a_daemon_never_opened_and_another_took_over_is_not_taken_back(two_daemons):
    former, new = two_daemons
    rank = Rank(new, 0, 1, run="runs/new").join()
    save_all([rank], 1)
    with pytest.raises(ConflictError, match="taken over by another owner"):
        former.latest("runs/new")
    save_all([rank], 2)


def test_what_an_earlier_daemon_finishes_late_is_taken_over(two_daemons):
    former, new = two_daemons
    rank = Rank(former, 0, 1, life="b").join()
    save_all([rank], 2)
    assert new.latest("runs/r").step == 2
    with pytest.raises(CkptdError, match="taken over by another owner"):
        save_all([rank], 3)
