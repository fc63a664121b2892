"""Whatever ends the caller's part of `save` ends that save at once, and the next one works."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

import ckptd
from ckptd.client.saving import end_of_process
from ckptd.client.saving.pending import completion_of
from tests import seams
from tests.unit.client.served import Daemon

pytestmark = pytest.mark.usefixtures("memory_is_waited_for")

TIMEOUT_S = 120.0
SOON_S = 60.0  # of a machine under load; without the fix it is `TIMEOUT_S` and more
ARRAYS = {"w": np.arange(100_000.0), "b": np.arange(7)}


@pytest.fixture
def daemon(tmp_path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path / "root", arena_bytes=256 << 20, lease_s=1.0, declare_timeout_s=60.0)
    yield daemon
    daemon.stop()


@pytest.fixture(params=["shared memory", "stream", "direct"])
def ckpt(request, daemon, tmp_path, monkeypatch) -> Iterator[ckptd.Checkpointer]:
    if request.param == "stream":
        monkeypatch.setenv("CKPTD_TRANSPORT", "stream")
    where = tmp_path / "direct" if request.param == "direct" else daemon.address
    with ckptd.Checkpointer(where, run="r", rank=0, world_size=1, timeout_s=TIMEOUT_S) as opened:
        opened.save(1, ARRAYS).result(TIMEOUT_S)
        if request.param == "shared memory":
            assert opened.transport.connection.seat().arenas.rooms is not None
        yield opened


def fail(error: BaseException):
    def raise_it(*_: object, **__: object) -> None:
        raise error

    return raise_it


CAUSES = [KeyboardInterrupt(), MemoryError(), RuntimeError("of an array")]


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: type(cause).__name__)
@pytest.mark.parametrize("place", ["preparing", "beginning", "copying"])
def test_the_save_is_over_and_the_next_one_works(ckpt, monkeypatch, cause: BaseException, place: str):
    began, of_others = time.monotonic(), set(end_of_process.owed())
    with monkeypatch.context() as patched:
        match place:
            case "preparing":
                seams.PREPARE_SAVE.put(patched, fail(cause))
            case "beginning":
                seams.BEGIN_SAVE.put(patched, fail(cause))
            case "copying":
                seams.COPY_PIECE.put(patched, fail(cause))
        for _ in range(3):  # more than may be under way at once
            with pytest.raises(type(cause)):
                ckpt.save(2, ARRAYS)
    pending = ckpt.save(2, ARRAYS)
    assert pending.result(SOON_S).step == 2
    ckpt.close()
    assert completion_of(pending).wait_until_over(SOON_S)
    assert time.monotonic() - began < SOON_S
    assert of_others.issuperset(end_of_process.owed())


class NoneIdle(list[object]):
    """Idle threads, of which there are none, even when one has finished meanwhile."""

    def append(self, _thread: object) -> None:
        pass


def test_a_thread_that_cannot_be_started_ends_the_save_alone(ckpt, monkeypatch):
    began = time.monotonic()
    with monkeypatch.context() as patched:
        seams.IDLE_THREADS.put(patched, NoneIdle())
        patched.setattr(threading.Thread, "start", fail(RuntimeError("can't start new thread")))
        for _ in range(3):
            with pytest.raises(ckptd.UnavailableError, match="no thread can be started: can't start new thread"):
                ckpt.save(2, ARRAYS)
    assert ckpt.save(2, ARRAYS).result(SOON_S).step == 2
    ckpt.close()
    assert time.monotonic() - began < SOON_S


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Python drops one in a weakref callback
def test_ctrl_c_at_any_moment_leaves_the_next_save_in_peace(ckpt):
    big = {"w": np.ones(8 << 20, np.float32)}
    previous = signal.signal(signal.SIGALRM, lambda *_: signal.default_int_handler(signal.SIGINT, None))
    try:
        for number in range(24):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0001 * 1.25**number)
                ckpt.save(100 + number, big)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                pass
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert ckpt.save(2, ARRAYS).result(SOON_S).step == 2
    began = time.monotonic()
    ckpt.close()
    assert time.monotonic() - began < SOON_S
