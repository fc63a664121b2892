"""The store fails in the middle of a save: the save ends with the store's own error, and nothing else is touched."""

from __future__ import annotations

import itertools

import pytest

from ckptd.engine.coordinator import Coordinator
from ckptd.engine.identity import RunOptions
from ckptd.engine.restore import Bundle
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
