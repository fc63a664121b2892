"""A save that fails inside of the daemon is told at once, whatever the error: nobody takes it for a lost connection."""

from __future__ import annotations

import copy
import logging
import threading
import time
import traceback

import grpc
import numpy as np
import pytest

import ckptd
from ckptd.engine.settings import Settings
from ckptd.errors import CkptdError, SessionAbortedError, StorageFullError, UnavailableError
from ckptd.storage.local.local_store import LocalStore
from ckptd.wire import addresses
from ckptd.wire.channels import open_channel
from tests import seams
from tests.fakes.hooked_store import HookedStore
from tests.fakes.worker import Worker
from tests.unit.client.served import Daemon

ARRAYS = {"w": np.arange(1000, dtype=np.float32)}
AT_ONCE_S = 60.0  # far below the save's own 600 s

ERRORS = {
    "EIO": (UnavailableError("the disk reports an input/output error"), UnavailableError),
    "EMFILE": (UnavailableError("this process has too many open files"), UnavailableError),
    "unknown errno": (UnavailableError("the file system failed"), UnavailableError),
    "EDQUOT": (StorageFullError("the disk quota is used up"), StorageFullError),
    "a bug": (RuntimeError("a bug"), SessionAbortedError),
}


class Failing(HookedStore):
    """Raises `error` at every operation that begins with `what`, or at `create`."""

    def __init__(self, inner, what="", error=None):
        super().__init__(inner, before=self._fail)
        self.what, self.error = what, error
        self._hangs, self._released = None, threading.Event()

    def hang(self, what):
        self._hangs = what
        self._released.clear()

    def go_on(self):
        self._hangs = None
        self._released.set()

    def _fail(self, _, what):
        if self._hangs is not None and what.startswith(self._hangs):
            assert self._released.wait(60)
        if self.error is not None and what.startswith(self.what):
            raise copy.copy(self.error)

    def create(self, key, size_bytes):
        self._fail(0, f"create {key}")
        return super().create(key, size_bytes)


@pytest.fixture
def failing(tmp_path, monkeypatch):
    store = Failing(LocalStore(str(tmp_path / "root")))
    monkeypatch.setattr("tests.unit.client.served.open_store", lambda root: store)
    daemon = Daemon(tmp_path / "root")
    daemon.store = store
    yield daemon
    daemon.stop()


@pytest.mark.parametrize("what", ["create", "finish", "put runs/a/model.ckpt-2.index"])
@pytest.mark.parametrize("named", ERRORS)
def test_whatever_ends_a_save_is_told_at_once(failing, what, named):
    error, kind = ERRORS[named]
    with ckptd.Checkpointer(failing.address, run="runs/a") as checkpointer:
        checkpointer.save(1, ARRAYS).result()
        failing.store.what, failing.store.error = what, error
        began = time.monotonic()
        failure = checkpointer.save(2, ARRAYS).exception(AT_ONCE_S)
        assert type(failure) is kind
        assert str(error) in str(failure)
        assert time.monotonic() - began < AT_ONCE_S
        failing.store.error = None
        assert checkpointer.save(3, ARRAYS).result().step == 3


def test_an_answer_of_the_daemon_is_not_asked_for_again(failing):
    with ckptd.Checkpointer(failing.address, run="runs/a") as checkpointer:
        checkpointer.save(1, ARRAYS).result()
        failing.store.what, failing.store.error = "", UnavailableError("the disk reports an input/output error")
        began = time.monotonic()
        with pytest.raises(UnavailableError, match="input/output"):
            checkpointer.pin(1)
        assert time.monotonic() - began < AT_ONCE_S


def test_a_join_that_the_store_keeps_from_succeeding_says_so(failing, monkeypatch):
    seams.DAEMON_FULL_WAIT_S.put(monkeypatch, 0.2)
    failure = UnavailableError("the disk reports an input/output error")

    def fails(*_):
        raise failure

    monkeypatch.setattr(failing.coordinator, "join", fails)
    with ckptd.Checkpointer(failing.address, run="runs/a") as checkpointer:
        failure = checkpointer.save(1, ARRAYS).exception(AT_ONCE_S)
        assert "input/output" in str(failure)
        monkeypatch.undo()
        assert checkpointer.save(2, ARRAYS).result().step == 2


def test_no_error_brings_the_traceback_of_grpc_along(failing):
    with ckptd.Checkpointer(failing.address, run="runs/a") as checkpointer:
        checkpointer.save(1, ARRAYS).result()
        with pytest.raises(CkptdError) as caught:
            checkpointer.pin(99)
        shown = "".join(traceback.format_exception(caught.value))
        assert "direct cause" not in shown
        assert "RpcError" not in shown


def of_older(request):
    """What a client sends that knows nothing of ends."""
    request.hears_ends = False
    return request


def test_an_older_client_hears_an_end_that_it_does_not_ask_for_again(failing):
    with open_channel(addresses.parse(failing.address)) as channel:
        worker = Worker(channel, 0, 1).join()
        failing.store.what, failing.store.error = "finish", UnavailableError("the disk reports an input/output error")
        worker.assigned(worker.declare(1, {"w": (ARRAYS["w"], (1000,), (0,))}))
        worker.send()
        with pytest.raises(grpc.RpcError) as caught:
            worker.outcome()
        assert caught.value.code() is grpc.StatusCode.ABORTED
        assert "input/output" in caught.value.details()
        failing.store.what = "create"
        with pytest.raises(grpc.RpcError) as caught:
            list(worker.declare(2, {"w": (ARRAYS["w"], (1000,), (0,))}))
        assert caught.value.code() is grpc.StatusCode.ABORTED


def test_a_newer_client_still_understands_an_older_daemon(daemon, monkeypatch):
    """Which answers an aborted save by a status, and knows no phase for it."""
    await_, declare = seams.SERVE_AWAIT.value, seams.SERVE_DECLARE.value
    seams.SERVE_AWAIT.put(monkeypatch, lambda self, request, call: await_(self, of_older(request), call))
    seams.SERVE_DECLARE.put(monkeypatch, lambda self, request, call: declare(self, of_older(request), call))
    daemon.stop()
    daemon.settings = Settings(declare_timeout_s=0.3)
    daemon.start()
    with ckptd.Checkpointer(daemon.address, run="runs/a", rank=0, world_size=2) as checkpointer:
        failure = checkpointer.save(1, ARRAYS).exception(AT_ONCE_S)
        assert isinstance(failure, SessionAbortedError)
        assert "rank 1 of 2 has not declared" in str(failure)


def test_an_aborted_save_leaves_one_line_in_the_log_however_many_wait(tmp_path, caplog):
    daemon = Daemon(tmp_path / "root", declare_timeout_s=2.0)
    try:
        with caplog.at_level(logging.INFO, logger="ckptd"):
            ranks = [ckptd.Checkpointer(daemon.address, run="runs/a", rank=rank, world_size=4) for rank in range(3)]
            pending = [rank.save(1, {f"w{number}": ARRAYS["w"]}) for number, rank in enumerate(ranks)]
            assert all(isinstance(each.exception(AT_ONCE_S), SessionAbortedError) for each in pending)
            for rank in ranks:
                rank.close()
        lines = [record.getMessage() for record in caplog.records if "has not declared" in record.getMessage()]
        assert len(lines) == 1
    finally:
        daemon.stop()
