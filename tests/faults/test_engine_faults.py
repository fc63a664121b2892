"""The store fails in the middle of a save: the save ends with the store's own error, and nothing else is touched."""

from __future__ import annotations

import contextlib
import itertools
import threading

import pytest

from ckptd.engine.identity import RunOptions
from ckptd.engine.reading.bundle import Bundle
from ckptd.engine.saves.coordinator import Coordinator
from ckptd.errors import CkptdError, NotPermittedError, StorageFullError, UnavailableError
from ckptd.storage.memory import MemoryStore
from tests.fakes.failing_store import FailingStore
from tests.fakes.job import WAIT_S, Rank, save_all, tensor_of

ERRORS = [StorageFullError("no space left"), NotPermittedError("read only"), UnavailableError("try later")]


def try_to_save(ranks: list[Rank], step: int) -> CkptdError | None:
    try:
        save_all(ranks, step)
    except CkptdError as error:
        return error
    return None


def check_latest(store: MemoryStore, step: int) -> None:
    state = store.get("runs/r/checkpoint").decode()
    assert state.startswith(f'model_checkpoint_path: "model.ckpt-{step}"')
    assert (Bundle.open(store, f"runs/r/model.ckpt-{step}").read("w") == tensor_of(step, 2)).all()


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_any_call_to_the_store_may_fail_once(error):
    outcomes = set()
    for fails_at in itertools.count():
        inner = MemoryStore()
        store = FailingStore(inner, error)
        coordinator = Coordinator(store)
        coordinator.open()
        ranks = [Rank(coordinator, rank, 2, options=RunOptions(max_to_keep=2)).join() for rank in (0, 1)]
        for step in (1, 2):
            save_all(ranks, step)
        assert coordinator.settle(WAIT_S)
        store.calls.clear()
        store.fails_at = fails_at
        failure = try_to_save(ranks, 3)
        assert coordinator.settle(WAIT_S)
        reached = len(store.calls) > fails_at
        store.fails_at = None
        if failure is None:
            check_latest(inner, 3)
        else:
            assert type(failure) is type(error)
            check_latest(inner, 2)
            assert not [stat.key for stat in inner.list("runs/r") if "ckpt-3" in stat.key] or not reached
        outcomes.add(failure is None)
        save_all(ranks, 4)
        check_latest(inner, 4)
        assert coordinator.close()
        reopened = Coordinator(inner)
        reopened.open()
        assert reopened.close()
        check_latest(inner, 4)
        keys = [stat.key for stat in inner.list("runs/r")]
        assert not [key for key in keys if "ckpt-1" in key]
        if not reached:
            break
    assert outcomes == {True, False}
    assert fails_at > 10


@pytest.mark.parametrize("comes_back", [True, False], ids=["the same process", "another process"])
def test_a_join_that_failed_is_forgotten_whole(comes_back):
    for fails_at in itertools.count():
        store = FailingStore(MemoryStore(), UnavailableError("try later"), fails_at)
        coordinator = Coordinator(store)
        try:
            coordinator.open()
        except UnavailableError:
            continue
        rank = Rank(coordinator, 0, 1, options=RunOptions(max_to_keep=None))
        with contextlib.suppress(UnavailableError):
            rank.join()
        reached = len(store.calls) > fails_at
        store.fails_at = None
        if reached and not comes_back:
            rank = Rank(coordinator, 0, 1, life="b", options=RunOptions(max_to_keep=None))
        rank.join()
        for step in range(1, 8):
            save_all([rank], step)
        assert coordinator.settle(WAIT_S)
        assert [one.step for one in coordinator.checkpoints("runs/r")] == [1, 2, 3, 4, 5, 6, 7]
        assert coordinator.close()
        if not reached:
            break
    assert fails_at > 1


class GatedStore(FailingStore):
    """Lets a test in when the index of step 3 is written: before it, or after it with every later call failing."""

    def __init__(self, inner: MemoryStore) -> None:
        super().__init__(inner, UnavailableError("the store is away"))
        self.at_index = threading.Event()
        self.go_on = threading.Event()
        self.goes_away = False
        self.is_away = False

    def put(self, key: str, data: bytes) -> object:
        if key.endswith("ckpt-3.index"):
            self.at_index.set()
            assert self.go_on.wait(WAIT_S)
            stat = super().put(key, data)
            self.is_away = self.goes_away
            return stat
        return super().put(key, data)

    def count(self, what: str) -> None:
        self.check()

    def check(self) -> None:
        if self.is_away:
            raise UnavailableError("the store is away")

    def get(self, key: str, **limits: int) -> bytes:
        self.check()
        return self._inner.get(key, **limits)

    def list(self, directory: str, **how: bool) -> object:
        self.check()
        return self._inner.list(directory, **how)

    def stat(self, key: str) -> object:
        self.check()
        return self._inner.stat(key)


@pytest.fixture
def gated():
    inner = MemoryStore()
    store = GatedStore(inner)
    coordinator = Coordinator(store)
    coordinator.open()
    ranks = [Rank(coordinator, rank, 2).join() for rank in (0, 1)]
    save_all(ranks, 2)
    for rank in ranks:
        rank.declare(3)
    for rank in ranks:
        rank.send(3)
    assert store.at_index.wait(WAIT_S)
    yield inner, store, coordinator, ranks
    store.go_on.set()
    store.is_away = False
    coordinator.close()


def test_who_gives_up_while_a_save_is_being_committed_hears_that_it_was_saved(gated):
    inner, store, coordinator, ranks = gated
    coordinator.abort(ranks[1].assignment(3).save, "impatient")
    store.go_on.set()
    assert ranks[0].outcome(3).step == 3
    assert ranks[1].outcome(3).step == 3
    check_latest(inner, 3)


def test_when_nobody_can_say_whether_a_save_was_committed_that_is_the_answer_and_asking_later_tells(gated):
    inner, store, coordinator, ranks = gated
    store.goes_away = True
    store.go_on.set()
    with pytest.raises(UnavailableError, match="cannot tell now whether step 3 of runs/r was saved"):
        ranks[0].outcome(3)
    assert coordinator.settle(WAIT_S)
    store.is_away = False
    check_latest(inner, 2)
    save_all(ranks, 4)
    check_latest(inner, 4)
    assert coordinator.outcome(ranks[0].assignment(3).save).result(WAIT_S).step == 3
    assert (Bundle.open(inner, "runs/r/model.ckpt-3").read("w") == tensor_of(3, 2)).all()
