"""Damage beside a daemon: it reads the bytes again, all ranks of a start restore one step, watchers and status hear."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import ckptd
from ckptd.client.daemon.connection import this_member
from ckptd.client.transports import open_daemon
from ckptd.engine.identity import RunOptions
from ckptd.errors import CorruptionError, UnavailableError
from ckptd.wire import methods
from tests.fakes.waiting import eventually
from tests.unit.client.restoring.test_fallback import flip, marks
from tests.unit.client.served import BOUND_S, Daemon


@pytest.fixture
def daemon(tmp_path):
    daemon = Daemon(tmp_path)
    with ckptd.Checkpointer(daemon.address, "a", rank=0, world_size=1, timeout_s=BOUND_S) as checkpointer:
        for step in (1, 2, 3):
            checkpointer.save(step, {"w": np.full(1000, step), "v": np.full(3, -step)})
    yield daemon
    daemon.stop()


@pytest.fixture
def connect(daemon):
    opened = []

    def connect(rank=0, world_size=1, **options):
        opened.append(
            ckptd.Checkpointer(
                daemon.address, "a", rank=rank, world_size=world_size, **{"timeout_s": BOUND_S, **options}
            )
        )
        return opened[-1]

    yield connect
    for checkpointer in opened:
        checkpointer.close()


def damage(root, step):
    flip(next((root / "a").glob(f"model.ckpt-{step}.data-*")))


def test_the_daemon_confirms_and_everybody_hears(daemon, connect, tmp_path, capfd):
    heard, news = [], threading.Event()
    watcher = connect()

    def follow():
        for checkpoint in watcher.watch():
            heard.append(checkpoint)
            news.set()

    thread = threading.Thread(target=follow)
    thread.start()
    assert news.wait(BOUND_S)
    news.clear()
    damage(tmp_path, 3)
    trainer = connect()
    assert set(trainer.restore()["w"]) == {2}
    assert trainer.restored.step == 2
    assert "step 3 of a is damaged, and step 2 is restored instead" in capfd.readouterr().err
    assert news.wait(BOUND_S)
    assert [each.step for each in heard] == [3, 2]
    assert "tensor 'w'" in heard[1].rolled_back
    watcher.close()
    thread.join(BOUND_S)
    assert list(marks(tmp_path)) == [3]
    assert [each.step for each in trainer.checkpoints()] == [1, 2]
    trainer.save(3, {"w": np.full(3, 33)}).result()
    assert connect().restore()["w"].tolist() == [33] * 3


def test_a_restart_of_the_daemon_keeps_the_quarantine(daemon, connect, tmp_path):
    damage(tmp_path, 3)
    connect().restore()
    daemon.stop()
    again = Daemon(tmp_path)
    try:
        with ckptd.Checkpointer(again.address, "a", timeout_s=BOUND_S) as checkpointer:
            assert checkpointer.latest().step == 2
    finally:
        again.stop()


def test_a_lying_client_quarantines_nothing(daemon, connect, tmp_path):
    from ckptd.client.saving.transport import RestoreCall
    from ckptd.engine.reading.damage import Suspicion

    liar = open_daemon(daemon.address, "a", this_member(0, 1), RunOptions(), timeout_s=BOUND_S, token=None, ca=None)
    located = liar.catalog.latest("model.ckpt")
    shard = f"{located.key}.data-00000-of-00001"
    for suspicion in (Suspicion(shard, 0, "it is bad"), Suspicion("", None, "all of it"), Suspicion("../etc", 5, "")):
        verdict = liar.catalog.check_damage(located, suspicion, RestoreCall("x"))
        assert not verdict.is_confirmed
    liar.close()
    assert connect().latest().step == 3
    assert marks(tmp_path) == {}


def test_once_another_rank_has_restored_the_step_damage_ends_the_job_and_its_restart_goes_back(
    daemon, connect, tmp_path
):
    ranks = [connect(rank, 2) for rank in range(2)]
    assert set(ranks[0].restore(names=["v"])["v"]) == {-3}
    damage(tmp_path, 3)
    with pytest.raises(CorruptionError) as caught:
        ranks[1].restore()
    notes = " ".join(caught.value.__notes__)
    assert "rank 0 of 2 restored this step already" in notes
    restarted = [connect(rank, 2) for rank in range(2)]
    assert [set(restarted[rank].restore()["w"]) for rank in range(2)] == [{2}, {2}]


def test_what_ranks_restore_of_another_name_between_lets_none_of_them_go_back_alone(daemon, connect, tmp_path):
    with connect() as checkpointer:
        checkpointer.save(3, {"w": np.full(1000, 30)}, name="best").result()
    damage(tmp_path, 3)
    first, second = connect(0, 2), connect(1, 2)
    assert set(first.restore(names=["v"])["v"]) == {-3}  # does not meet the damage
    assert set(first.restore(name="best")["w"]) == {30}
    with pytest.raises(CorruptionError) as told:
        second.restore(names=["w"])
    assert any("rank 0 of 2 restored this step already" in note for note in told.value.__notes__)
    first, second = connect(0, 2), connect(1, 2)  # the job is started again
    for rank in (second, first):
        assert set(rank.restore(names=["w"])["w"]) == {2}
        assert set(rank.restore(name="best")["w"]) == {30}


def test_the_first_rank_goes_back_alone_and_the_others_follow(daemon, connect, tmp_path):
    damage(tmp_path, 3)
    ranks = [connect(rank, 3) for rank in range(3)]
    for rank in (1, 0, 2):
        assert set(ranks[rank].restore()["w"]) == {2}
        assert ranks[rank].restored.step == 2


def test_ranks_that_restore_together_agree_in_one_call(daemon, connect, tmp_path):
    damage(tmp_path, 3)
    ranks = [connect(rank, 3) for rank in range(3)]
    wanted = [["v"], ["v"], ["w"]]  # only the last one meets the damage
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(ranks[n].restore, names=wanted[n], fallback="together") for n in range(3)]
        found = [call.result(BOUND_S) for call in calls]
    assert set(found[0]["v"]) == set(found[1]["v"]) == {-2}
    assert set(found[2]["w"]) == {2}
    assert {each.restored.step for each in ranks} == {2}


def test_a_job_that_is_started_again_before_all_ranks_came_restores_one_step(daemon, connect, tmp_path):
    connect(0, 2).restore(names=["v"])  # of a job whose rank 1 never comes
    again = [connect(rank, 2) for rank in range(2)]
    assert set(again[1].restore(names=["v"])["v"]) == {-3}  # comes first, and looks like a rank of that job
    damage(tmp_path, 3)
    with pytest.raises(CorruptionError) as caught:
        again[0].restore()
    assert "rank 1 of 2 restored this step already" in " ".join(caught.value.__notes__)
    assert [set(connect(rank, 2).restore()["w"]) for rank in range(2)] == [{2}, {2}]


@pytest.mark.parametrize("is_damaged", [False, True])
def test_ranks_that_were_to_restore_together_do_so_when_started_again(daemon, connect, tmp_path, is_damaged):
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(connect(rank, 3, timeout_s=3.0).restore, fallback="together") for rank in (0, 2)]
        for call in calls:
            with pytest.raises(UnavailableError, match="rank 1 of 3 did not restore"):
                call.result(BOUND_S)
        if is_damaged:
            damage(tmp_path, 3)
        again, found = [connect(rank, 3) for rank in range(3)], np.zeros(3, np.int64)
        calls = [pool.submit(again[1].restore, names=["v"], into={"v": found}, fallback="together")]
        eventually(found.any, "the first rank's beginning")
        calls += [pool.submit(again[rank].restore, fallback="together") for rank in (0, 2)]
        for call in calls:
            call.result(BOUND_S)
    assert {each.restored.step for each in again} == {2 if is_damaged else 3}


def test_together_says_who_is_missing(connect):
    with pytest.raises(UnavailableError, match="ranks 1-2 of 3 did not restore step 3 within 3 s"):
        connect(0, 3, timeout_s=3.0).restore(fallback="together")


def test_a_daemon_of_the_version_before_is_no_reason_to_go_back(daemon, connect, tmp_path, monkeypatch):
    damage(tmp_path, 3)
    daemon.stop()
    with monkeypatch.context() as older:
        older.delitem(methods.READ, "CheckDamage")  # its gRPC answers what it does not know
        daemon.start()
    trainer = connect()
    with pytest.raises(CorruptionError) as caught:
        trainer.restore()
    assert any("older than this client" in note for note in caught.value.__notes__)
