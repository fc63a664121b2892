"""Managers of two processes beside a daemon: what differs between them, and what they delete."""

from __future__ import annotations

import datetime
import threading

import numpy as np
import pytest

import ckptd
from ckptd.errors import ConflictError, InvalidRequestError
from ckptd.jax import CheckpointManager
from tests import seams
from tests.unit.client.served import Daemon

BOUND_S = 60.0


@pytest.fixture
def daemon(tmp_path):
    (tmp_path / "root").mkdir()
    daemon = Daemon(tmp_path / "root", lease_s=1.0, declare_timeout_s=60.0)
    yield daemon
    daemon.stop()


def managers_of(daemon, **options):
    return [CheckpointManager(daemon.address, run="x", rank=rank, world_size=2, **options) for rank in range(2)]


def tree(rank, *, loss=0.5, seeds=(1, 2)):
    part = ckptd.Slice(np.full(2, rank), full_shape=(4,), start=(2 * rank,))
    return {"w": part, "loss": loss, "data": {"seeds": list(seeds)}}


def of_both(call):
    """Call with 0 and 1 at once, as two processes do; return what came of it, errors too."""
    found = [None, None]

    def one(rank):
        try:
            found[rank] = call(rank)
        except ckptd.CkptdError as error:
            found[rank] = error

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND_S)
        assert not thread.is_alive()
    return found


def test_values_that_differ_are_refused_by_their_paths_or_allowed_by_name(daemon):
    managers = managers_of(daemon, replicas="refuse")
    for rank, manager in enumerate(managers):
        manager.save(1, tree(rank, loss=rank, seeds=(1, 2 + rank)))
    for manager in managers:
        with pytest.raises(InvalidRequestError, match=r"'loss' is 0 on rank 0, 1 on rank 1") as caught:
            manager.wait_until_finished()
        assert "'data/seeds' is [1, 2] on rank 0, [1, 3] on rank 1" in str(caught.value)
    for rank, manager in enumerate(managers):
        assert manager.save(2, tree(rank, loss=float(rank)), may_differ=["loss"])
    for manager in managers:
        manager.wait_until_finished()
        assert manager.all_steps() == [2]
        manager.close()


def test_replicas_is_one_of_three_words(tmp_path):
    with pytest.raises(InvalidRequestError, match="replicas"):
        CheckpointManager(tmp_path / "run", replicas="ignore")


def test_a_rollback_over_the_pin_of_others_is_refused_in_all_processes(daemon):
    managers = managers_of(daemon, keep_period=2)
    for step in (1, 2, 3, 4):
        of_both(lambda rank, step=step: managers[rank].save(step, tree(rank)))
    for manager in managers:
        manager.wait_until_finished()
    managers[0].checkpointer.pin(3)
    for error in of_both(lambda rank: managers[rank].roll_back(1)):
        assert isinstance(error, ConflictError)
        assert "[3]" in str(error)
    assert managers[1].all_steps() == [1, 2, 3, 4]
    managers[0].checkpointer.unpin(3)
    deleted = of_both(lambda rank: managers[rank].roll_back(1))
    assert deleted[0] == [2, 3, 4]
    assert managers[1].all_steps() == [1]
    assert of_both(lambda rank: managers[rank].save(2, tree(rank))) == [True, True]
    for manager in managers:
        manager.close()


def test_policies_decide_alike_in_all_processes_and_rank_0_deletes(daemon):
    class Odd:
        def should_save(self, step, previous_steps, *, context):
            return step.step % 2 == 1

    class Newest:
        def should_preserve(self, checkpoints, *, context):
            return [one is checkpoints[-1] for one in checkpoints]

    managers = managers_of(daemon, save_decision_policy=Odd(), preservation_policy=Newest())
    for step in range(1, 6):
        saved = of_both(lambda rank, step=step: managers[rank].save(step, tree(rank)))
        assert saved == [step % 2 == 1] * 2
    for manager in managers:
        manager.wait_until_finished()
    assert [manager.all_steps() for manager in managers] == [[5], [5]]
    for manager in managers:
        manager.close()


def test_a_span_of_time_is_kept_though_a_rollback_goes_over_it(daemon):
    managers = managers_of(daemon, max_to_keep=1, keep_time_interval=datetime.timedelta(hours=1))
    for step in (1, 2, 3):
        of_both(lambda rank, step=step: managers[rank].save(step, tree(rank)))
    for manager in managers:
        manager.wait_until_finished()
    assert managers[0].all_steps() == [1, 3]
    deleted = of_both(lambda rank: managers[rank].roll_back(1))
    assert deleted[0] == [3]
    assert [manager.all_steps() for manager in managers] == [[1], [1]]
    for manager in managers:
        manager.close()


def test_a_leaf_that_one_rank_cannot_store_is_told_to_the_others(daemon, monkeypatch):
    seams.WITHDRAWAL_GRACE_S.put(monkeypatch, 0.2)
    first, second = managers_of(daemon, timeout_s=60)
    second.save(1, {"w": np.ones(2)})
    with pytest.raises(ckptd.InvalidRequestError, match="bad"):
        first.save(1, {"w": np.ones(2), "bad": object()})
    with pytest.raises(ckptd.SessionAbortedError, match="rank 0 gave up: .*bad"):
        second.wait_until_finished()
    for one in (first, second):
        assert one.save(2, {"w": np.ones(2)})
    for one in (first, second):
        one.close()
    assert not (daemon.root / "x/model.ckpt-1.index").exists()
    assert (daemon.root / "x/model.ckpt-2.index").exists()
