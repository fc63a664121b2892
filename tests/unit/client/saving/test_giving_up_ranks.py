"""One of several ranks gives its save up: the others need not wait for it, and all may save that step again at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import ckptd
from ckptd.engine.layout import LaneTransport
from ckptd.wire.v1 import save_pb2
from tests import seams
from tests.fakes.waiting import eventually
from tests.unit.client.served import Daemon

pytestmark = pytest.mark.usefixtures("memory_is_waited_for")

TIMEOUT_S = 120.0
SOON_S = 60.0  # of a machine under load; without the fix it is `TIMEOUT_S` and more
ARRAYS = {"w": np.arange(100_000.0), "b": np.arange(7)}
RANKS = range(4)

Ranks = list[ckptd.Checkpointer]


@pytest.fixture
def daemon(tmp_path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path / "root", arena_bytes=64 << 20, lease_s=1.0)
    yield daemon
    daemon.stop()


@pytest.fixture(params=["auto", "stream"])
def transport(request, monkeypatch) -> str:
    monkeypatch.setenv("CKPTD_TRANSPORT", request.param)
    return request.param


@pytest.fixture
def ranks(daemon, transport) -> Iterator[Ranks]:
    opened = [
        ckptd.Checkpointer(daemon.address, "r", rank=rank, world_size=len(RANKS), timeout_s=TIMEOUT_S) for rank in RANKS
    ]
    saved(opened, 1)
    began = time.monotonic()
    yield opened
    for rank in opened:
        rank.close()
    assert time.monotonic() - began < SOON_S


def saved(ranks: Ranks, step: int) -> None:
    pending = [rank.save(step, ARRAYS) for rank in ranks]
    assert [one.result(SOON_S).step for one in pending] == [step] * len(ranks)


def declared(daemon: Daemon, step: int) -> dict[int, LaneTransport]:
    """Return which ranks have declared a step that is under way, and how their bytes come."""
    live = [
        save for save in daemon.coordinator.saves_of("r").live() if save.ref.step == step and not save.session.is_over
    ]
    return {rank: claim.transport for save in live for rank, claim in save.claims.items()}


def fail_once_declared(daemon: Daemon, step: int, error: BaseException) -> Callable[..., None]:
    def raise_it(*_: object) -> None:
        eventually(lambda: 0 in declared(daemon, step))
        raise error

    return raise_it


def fail(error: BaseException) -> Callable[..., None]:
    def raise_it(*_: object, **__: object) -> None:
        raise error

    return raise_it


CAUSES: dict[str, tuple[type[BaseException], str]] = {
    "preparing": (MemoryError, "MemoryError"),
    "beginning": (KeyboardInterrupt, "Ctrl-C"),
    "copying": (KeyboardInterrupt, "Ctrl-C"),
    "a thread": (ckptd.UnavailableError, "can't start new thread"),
}


@pytest.fixture(params=CAUSES)
def give_up(request, daemon, monkeypatch, ranks) -> Callable[[int], str]:
    """Let rank 0 give up a step; return what the others should hear."""
    kind, told = CAUSES[request.param]

    def give_up(step: int) -> str:
        with monkeypatch.context() as patched:
            match request.param:
                case "preparing":
                    seams.PREPARE_SAVE.put(patched, fail(kind()))
                case "beginning":
                    seams.BEGIN_SAVE.put(patched, fail(kind()))
                case "copying":
                    seams.COPY_PIECE.put(patched, fail_once_declared(daemon, step, kind()))
                case "a thread":
                    seams.START_THREAD.put(patched, fail(RuntimeError(told)))
            with pytest.raises(kind):
                ranks[0].save(step, ARRAYS)
        return f"rank 0 gave up: .*{told}"

    return give_up


def test_the_transport_is_the_one_that_is_meant(daemon, ranks, transport):
    pending = [rank.save(2, ARRAYS) for rank in ranks[1:]]
    eventually(lambda: len(declared(daemon, 2)) == 3)
    assert set(declared(daemon, 2).values()) == {LaneTransport.STREAM if transport == "stream" else LaneTransport.ARENA}
    saved([ranks[0]], 2)
    assert [one.result(SOON_S).step for one in pending] == [2, 2, 2]


def test_others_that_come_after_it_join_what_it_saves_again(ranks, give_up):
    for step in (2, 3):
        give_up(step)
        saved(ranks, step)


def test_others_that_come_before_it_saves_again_are_not_told(daemon, ranks, give_up):
    give_up(2)
    others = [rank.save(2, ARRAYS) for rank in ranks[1:]]
    eventually(lambda: len(declared(daemon, 2)) == 3)
    saved([ranks[0]], 2)
    assert [one.result(SOON_S).step for one in others] == [2, 2, 2]


def test_others_that_have_declared_are_told_at_once_and_all_may_save_again(daemon, ranks, give_up):
    others = [rank.save(2, ARRAYS) for rank in ranks[1:]]
    eventually(lambda: len(declared(daemon, 2)) == 3)
    told = give_up(2)
    for one in others:
        with pytest.raises(ckptd.SessionAbortedError, match=told):
            one.result(SOON_S)
    saved(ranks, 2)


def test_others_that_come_after_it_are_told_soon_if_it_does_not_save_again(daemon, ranks, give_up, monkeypatch):
    seams.WITHDRAWAL_GRACE_S.put(monkeypatch, 0.2)
    told = give_up(2)
    others = [rank.save(2, ARRAYS) for rank in ranks[1:]]
    for one in others:
        with pytest.raises(ckptd.SessionAbortedError, match=told):
            one.result(SOON_S)
    saved(ranks, 2)


def test_a_rank_that_refuses_its_state_before_it_ever_joined_is_not_waited_for(daemon, transport, monkeypatch):
    seams.WITHDRAWAL_GRACE_S.put(monkeypatch, 0.2)
    opened = [ckptd.Checkpointer(daemon.address, "r", rank=rank, world_size=2, timeout_s=TIMEOUT_S) for rank in (0, 1)]
    try:
        for step in (1, 2):  # with the second step it has joined
            other = opened[1].save(step, ARRAYS)
            eventually(lambda step=step: step == 1 or 1 in declared(daemon, step))
            with pytest.raises(ckptd.InvalidRequestError, match="'bad'"):
                opened[0].save(step, {"bad": object()})
            with pytest.raises(ckptd.SessionAbortedError, match="rank 0 gave up: .*bad"):
                other.result(SOON_S)
            saved(opened, step)
    finally:
        for rank in opened:
            rank.close()


def test_a_function_that_does_not_return_what_is_to_be_saved_is_told_to_the_others(ranks, monkeypatch):
    seams.WITHDRAWAL_GRACE_S.put(monkeypatch, 0.2)

    def arrays_of() -> dict[str, object]:
        raise ValueError("no such layer")

    others = [rank.save(2, ARRAYS) for rank in ranks[1:]]
    with pytest.raises(ValueError, match="no such layer"):
        ranks[0].save(2, arrays_of)
    for one in others:
        with pytest.raises(ckptd.SessionAbortedError, match="rank 0 gave up: .*no such layer"):
            one.result(SOON_S)
    pending = [rank.save(2, lambda: ARRAYS) for rank in ranks]
    assert [one.result(SOON_S).step for one in pending] == [2] * len(ranks)


def test_an_older_daemon_ends_what_it_has_planned(request, daemon, transport, monkeypatch):
    abort, asked = seams.SERVE_ABORT.value, threading.Event()

    async def without_request_ids(self, message, call):
        if message.request_id:
            asked.set()
        return await abort(self, save_pb2.AbortRequest(save=message.save, reason=message.reason), call)

    seams.SERVE_ABORT.put(monkeypatch, without_request_ids)
    seams.WITHDRAW.put(monkeypatch, lambda *_: None)
    daemon.stop()
    daemon.start()
    ranks = request.getfixturevalue("ranks")
    with monkeypatch.context() as patched:
        seams.COPY_PIECE.put(patched, fail_once_declared(daemon, 2, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            ranks[0].save(2, ARRAYS)
    assert asked.wait(SOON_S)
    others = [rank.save(2, ARRAYS) for rank in ranks[1:]]
    for one in others:
        with pytest.raises(ckptd.SessionAbortedError, match="Ctrl-C"):
            one.result(SOON_S)
    saved(ranks, 2)
