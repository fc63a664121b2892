"""Several ranks, one daemon, and what goes wrong between them."""

from __future__ import annotations

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import ckptd
from ckptd import Checkpointer, Slice
from ckptd.errors import CkptdError, ConflictError, InvalidRequestError, SessionAbortedError, UnavailableError
from tests import seams
from tests.fakes.waiting import eventually
from tests.unit.client.relay import Relay
from tests.unit.client.served import Daemon

BOUND_S = 60.0
FULL = np.arange(400 * 6, dtype=np.float32).reshape(400, 6)
HALF = FULL.astype(np.float16)


def ranks(address, count, run="runs/a", **options):
    return [
        Checkpointer(address, run, rank=rank, world_size=count, **{"timeout_s": BOUND_S, **options})
        for rank in range(count)
    ]


def close(checkpointers):
    with ThreadPoolExecutor(len(checkpointers)) as pool:
        list(pool.map(Checkpointer.close, checkpointers))


def rows(array, rank, count):
    cuts = [len(array) * n // count for n in range(count + 1)]
    return Slice(array[cuts[rank] : cuts[rank + 1]], array.shape, (cuts[rank], *[0] * (array.ndim - 1)))


def state(rank, count):
    return {"w": rows(FULL, rank, count), "h": rows(HALF, rank, count), "bias": FULL[0], "step": 3, "s": [f"x{count}"]}


@pytest.fixture
def relay(daemon):
    relay = Relay(int(daemon.address.rpartition(":")[2]))
    yield relay
    relay.close()


def test_ranks_that_disagree_about_what_is_kept_are_told_who_said_what(daemon):
    first = Checkpointer(daemon.address, "runs/a", rank=0, world_size=2, max_to_keep=None, timeout_s=BOUND_S)
    other = Checkpointer(daemon.address, "runs/a", rank=1, world_size=2, timeout_s=BOUND_S)
    pending = first.save(1, state(0, 2))
    eventually(lambda: [run.connected_ranks for run in daemon.coordinator.runs()] == [(0,)])
    with pytest.raises(InvalidRequestError, match=r"rank 1 of 2 .* max_to_keep than rank 0 of 2 .*None.*5"):
        other.save(1, state(1, 2)).result(BOUND_S)
    agreeing = Checkpointer(daemon.address, "runs/a", rank=1, world_size=2, max_to_keep=None, timeout_s=BOUND_S)
    assert agreeing.save(1, state(1, 2)).result(BOUND_S) == pending.result(BOUND_S)
    other.close()
    close([first, agreeing])


def test_what_four_ranks_wrote_is_restored_by_any_number(daemon):
    four = ranks(daemon.address, 4)
    pending = [ckpt.save(3, state(rank, 4)) for rank, ckpt in enumerate(four)]
    done = [one.result(BOUND_S) for one in pending]
    assert len(set(done)) == 1
    assert done[0].num_shards == 4
    # The replicated bytes are there once.
    assert done[0].size_bytes == FULL.nbytes + HALF.nbytes + FULL[0].nbytes + 8 + 7
    for count in (1, 3):
        for rank in range(count):
            part = rows(FULL, rank, count)
            restored = four[rank].restore(slices={"w": (part.start, part.part.shape)})
            assert (restored["w"] == part.part).all()
            assert (restored["h"] == HALF).all()
            assert restored["s"].tolist() == [b"x4"]
    close(four)
    assert ckptd.verify(done[0].prefix).ok


def test_saves_follow_each_other_in_the_order_in_which_they_were_begun(daemon):
    two = ranks(daemon.address, 2)
    steps = range(6)

    def work(rank):
        return [two[rank].save(step, {"w": rows(FULL + step, rank, 2)}) for step in steps]

    with ThreadPoolExecutor(2) as pool:
        pending = [one for saves in pool.map(work, range(2)) for one in saves]
    results = [one.result(BOUND_S) for one in pending]
    assert sorted({(done.saved_at, done.step) for done in results}) == sorted(
        {(done.saved_at, done.step) for done in results}, key=lambda pair: pair[1]
    )
    assert [checkpoint.step for checkpoint in two[0].checkpoints()][-5:] == [1, 2, 3, 4, 5]
    close(two)


def test_a_rank_that_does_not_come_is_named_and_costs_only_its_save(tmp_path):
    daemon = Daemon(tmp_path / "root", declare_timeout_s=4.0)
    try:
        two = ranks(daemon.address, 2)
        with pytest.raises(SessionAbortedError, match="rank 1"):
            two[0].save(1, state(0, 2)).result(BOUND_S)
        # The late rank hears of it too, and both go on with the next.
        with pytest.raises(CkptdError):
            two[1].save(1, state(1, 2)).result(BOUND_S)
        pending = [ckpt.save(2, state(rank, 2)) for rank, ckpt in enumerate(two)]
        assert {one.result(BOUND_S).step for one in pending} == {2}
        close(two)
    finally:
        daemon.stop()


def test_ranks_that_disagree_are_told_which_tensor(daemon):
    two = ranks(daemon.address, 2)
    pending = [
        two[0].save(1, {"w": Slice(FULL[:200], (400, 6), (0, 0))}),
        two[1].save(1, {"w": Slice(FULL[200:], (401, 6), (200, 0))}),
    ]
    for one in pending:
        with pytest.raises(CkptdError, match="'w'"):
            one.result(BOUND_S)
    close(two)


def test_a_broken_connection_is_resumed_where_it_broke(relay):
    array = np.random.default_rng(0).integers(0, 255, 48 << 20, dtype=np.uint8)
    with Checkpointer(relay.address, "runs/a", timeout_s=BOUND_S) as ckpt:
        ckpt.save(1, {"a": FULL}).result(BOUND_S)
        connections, before = relay.num_connections, relay.forwarded_bytes
        relay.cut_after(24 << 20)
        done = ckpt.save(2, {"a": array}).result(BOUND_S)
        assert relay.num_connections > connections
        assert relay.forwarded_bytes - before < len(array) + (20 << 20)
        assert (ckpt.restore()["a"] == array).all()
    assert ckptd.verify(done.prefix).ok


def test_connections_that_keep_breaking_do_not_keep_a_save_from_its_end(relay):
    array = np.random.default_rng(0).integers(0, 255, 8 << 20, dtype=np.uint8)
    with Checkpointer(relay.address, "runs/a", timeout_s=BOUND_S) as ckpt:
        pending = ckpt.save(1, {"a": array})
        stop = threading.Event()
        for _ in range(5):
            stop.wait(0.03)
            relay.cut()
        pending.result(BOUND_S)
        assert (ckpt.restore()["a"] == array).all()


def test_a_restarted_daemon_is_found_again(daemon):
    with Checkpointer(daemon.address, "runs/a", timeout_s=BOUND_S) as ckpt:
        ckpt.save(1, {"a": FULL}).result(BOUND_S)
        daemon.stop()
        pending = ckpt.save(2, {"a": FULL + 1})
        daemon.start()
        assert pending.result(BOUND_S).step == 2
        assert [checkpoint.step for checkpoint in ckpt.checkpoints()] == [1, 2]


def test_a_save_that_the_daemon_lost_in_a_restart_is_made_anew_from_the_snapshots(daemon, monkeypatch):
    real, restarted, restarting = seams.SEND_TO_DAEMON.value, threading.Event(), threading.Lock()

    def send(transport, save, *rest):
        # Rank 1 sends nothing before the restart, so that the save can't be complete by then.
        if save.rank == 1:
            with restarting:  # both of its saves may come here, and one restart is meant
                if not restarted.is_set():
                    daemon.stop()
                    daemon.start()
                    restarted.set()
        real(transport, save, *rest)

    seams.SEND_TO_DAEMON.put(monkeypatch, send)
    two = ranks(daemon.address, 2)
    pending = [ckpt.save(step, state(rank, 2)) for step in (1, 2) for rank, ckpt in enumerate(two)]
    assert [one.result(BOUND_S).step for one in pending] == [1, 1, 2, 2]
    assert restarted.is_set()
    assert [checkpoint.step for checkpoint in two[0].checkpoints()] == [1, 2]
    assert two[0].latest().step == 2
    close(two)


def test_a_published_save_is_found_after_its_answer_was_lost(daemon, monkeypatch):
    real = seams.OUTCOME_AT_DAEMON.value

    def late(self, save, deadline):
        eventually(lambda: (daemon.root / "runs/a/checkpoint").exists())
        daemon.stop()
        daemon.start()
        return real(self, save, deadline)

    seams.OUTCOME_AT_DAEMON.put(monkeypatch, late)
    with Checkpointer(daemon.address, "runs/a", timeout_s=BOUND_S) as ckpt:
        assert ckpt.save(1, {"a": FULL}).result(BOUND_S).step == 1


def test_a_second_trainer_is_refused_while_the_first_lives(daemon, monkeypatch, another_process):
    seams.FIRST_CONFLICT_WAIT_S.put(monkeypatch, 0.3)
    with Checkpointer(daemon.address, "runs/a", timeout_s=BOUND_S) as first:
        first.save(1, {"a": FULL}).result(BOUND_S)
        another_process()
        with Checkpointer(daemon.address, "runs/a", timeout_s=BOUND_S) as second:
            with pytest.raises(ConflictError, match="rank 0"):
                second.save(2, {"a": FULL}).result(BOUND_S)
            assert second.latest().step == 1  # reading needs no place
        first.save(2, {"a": FULL}).result(BOUND_S)


def test_a_trainer_that_died_is_replaced_once_its_lease_has_passed(daemon, relay):
    dead = Checkpointer(relay.address, "runs/a", timeout_s=BOUND_S)
    dead.save(1, {"a": FULL}).result(BOUND_S)
    relay.is_refusing = True
    relay.cut()
    with Checkpointer(daemon.address, "runs/a", timeout_s=BOUND_S) as heir:
        assert heir.save(2, {"a": FULL}).result(BOUND_S).step == 2
        # It comes back and finds its place taken: fenced off, it can change nothing.
        relay.is_refusing = False
        with pytest.raises(ConflictError):
            dead.save(3, {"a": FULL}).result(BOUND_S)
        assert heir.latest().step == 2
    dead.close()


def test_nobody_at_the_address_is_said_within_the_timeout():
    ckpt = Checkpointer("127.0.0.1:1", "runs/a", timeout_s=0.5)
    with pytest.raises(UnavailableError, match=r"no daemon answers at 127\.0\.0\.1:1.*ckptd serve"):
        ckpt.latest()
    pending = ckpt.save(1, {"a": FULL})
    with pytest.raises(UnavailableError, match="no daemon answers"):
        pending.result(BOUND_S)
    ckpt.close()


def test_a_watch_survives_a_restart_and_never_goes_back(daemon):
    with Checkpointer(daemon.address, "runs/a", timeout_s=BOUND_S) as ckpt:
        ckpt.save(1, {"a": FULL}).result(BOUND_S)
        ckpt.save(2, {"a": FULL}).result(BOUND_S)
        seen, changed = [], threading.Condition()

        def follow():
            for checkpoint in ckpt.watch():
                with changed:
                    seen.append(checkpoint.step)
                    changed.notify_all()

        watcher = threading.Thread(target=follow)
        watcher.start()

        def saw(step):
            with changed:
                assert changed.wait_for(lambda: seen and seen[-1] == step, BOUND_S), seen

        saw(2)
        daemon.stop()
        daemon.start()
        ckpt.save(3, {"a": FULL}).result(BOUND_S)
        saw(3)
        assert seen == [2, 3]
    watcher.join(BOUND_S)
    assert not watcher.is_alive()


@contextlib.contextmanager
def in_another_process():
    """What is done meanwhile is done in a forked child, or in its parent, as far as the code can see."""
    with pytest.MonkeyPatch.context() as patch:
        pid = os.getpid() + 1
        patch.setattr(os, "getpid", lambda: pid)
        yield


def test_a_forked_child_is_told_to_make_its_own(daemon):
    with Checkpointer(daemon.address, "runs/a", timeout_s=BOUND_S) as ckpt:
        ckpt.latest()
        with in_another_process(), pytest.raises(ConflictError, match="forked.*make a new one in the child"):
            ckpt.latest()
        assert ckpt.latest() is None


def test_a_checkpointer_may_be_made_before_a_fork_and_used_in_every_child(daemon, monkeypatch):
    """Each child is a member of its own, as if it had made its own `Checkpointer`."""
    new, made = seams.NEW_INCARNATION.value, []
    seams.NEW_INCARNATION.put(monkeypatch, lambda: made.append(new()) or made[-1])
    joined, join = [], seams.JOIN_RUN.value
    seams.JOIN_RUN.put(
        monkeypatch, lambda self, run, member, *rest: joined.append(member) or join(self, run, member, *rest)
    )
    for run in ("runs/a", "runs/b"):
        with in_another_process():
            ckpt = Checkpointer(daemon.address, run, timeout_s=BOUND_S)
        with ckpt:
            ckpt.save(1, {"a": FULL}).result(BOUND_S)
    assert len(set(made)) == len(made) == 4
    assert [member.incarnation for member in joined] == [made[1], made[3]]
    assert {member.pid for member in joined} == {os.getpid()}


def test_a_lane_that_is_given_up_ends_its_stream_and_the_save(daemon, monkeypatch):
    real = seams.SEND_TO_DAEMON.value

    def given_up(transport, save, source, deadline, stop):
        stop.set()
        real(transport, save, source, deadline, stop)

    with Checkpointer(daemon.address, "runs/a", timeout_s=BOUND_S) as ckpt:
        seams.SEND_TO_DAEMON.put(monkeypatch, given_up)
        with pytest.raises(SessionAbortedError, match="given up"):
            ckpt.save(1, {"a": FULL}).result(BOUND_S)
        seams.SEND_TO_DAEMON.put(monkeypatch, real)
        assert ckpt.save(1, {"a": FULL}).result(BOUND_S).step == 1


def test_lanes_of_a_rank_are_sent_one_after_the_other(tmp_path, monkeypatch):
    """The next is opened when all but the last chunks of one are sent: two would only share the connection."""
    from ckptd.wire.chunks import CHUNK_BYTES

    order = []
    write = seams.WRITE_CHUNK.value

    def noted(self, position, data, crc):
        order.append(self.shard)
        return write(self, position, data, crc)

    seams.WRITE_CHUNK.put(monkeypatch, noted)
    daemon = Daemon(tmp_path, shards=2)
    try:
        with Checkpointer(daemon.address, "runs/a", timeout_s=BOUND_S) as ckpt:
            ckpt.save(1, {name: np.zeros(24 * CHUNK_BYTES, np.uint8) for name in "ab"}).result(BOUND_S)
    finally:
        daemon.stop()
    assert sorted(order) == [0] * 24 + [1] * 24
    # Some chunks of the first may still be on their way when the second begins.
    assert len(set(order[:8])) == 1


@pytest.mark.parametrize("older", ["client", "daemon"])
def test_beside_an_older_peer_nothing_is_compared_and_nothing_fails(daemon, monkeypatch, older):
    to_wire, from_wire = seams.DECLARATION_TO_WIRE.value, seams.DECLARATION_FROM_WIRE.value

    def without(message):
        for field in ("compared_parts", "compared_digests", "refuses_differences"):
            message.ClearField(field)
        return message

    if older == "client":  # rank 1 is one
        seams.DECLARATION_TO_WIRE.put(monkeypatch, lambda d: without(to_wire(d)) if d.save.rank == 1 else to_wire(d))
    else:
        seams.DECLARATION_FROM_WIRE.put(monkeypatch, lambda request: from_wire(without(request)))
    two = ranks(daemon.address, 2, replicas="refuse")
    saved = [one.save(1, {"n": rank}) for rank, one in enumerate(two)]
    assert saved[0].result(BOUND_S) == saved[1].result(BOUND_S)
    monkeypatch.undo()
    saved = [one.save(2, {"n": rank}) for rank, one in enumerate(two)]
    for one in saved:
        with pytest.raises(InvalidRequestError, match="'n' is 0 on rank 0, 1 on rank 1"):
            one.result(BOUND_S)
    close(two)


def test_what_is_done_about_differences_is_one_of_three(daemon):
    with pytest.raises(InvalidRequestError, match="warn or refuse or first"):
        Checkpointer(daemon.address, "runs/a", replicas="all")
