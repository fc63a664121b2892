"""While a save waits, both ends say once in a while for what, and for whom."""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import replace

import numpy as np
import pytest

from ckptd.client.checkpointer import Checkpointer
from ckptd.errors import CkptdError
from ckptd.service import flow
from ckptd.service.server import Server, ServerOptions
from ckptd.storage.local.local_store import LocalStore
from tests import seams
from tests.fakes.access import OPEN
from tests.fakes.waiting import eventually
from tests.unit.client.saving.test_ends_of_saves import Failing
from tests.unit.client.served import BOUND_S, Daemon

ARRAYS = {"w": np.arange(1000, dtype=np.float32)}


class Talkative(Daemon):
    """Tells those who wait for what, ten times a second."""

    def make_server(self, coordinator):
        limits = replace(flow.Limits(), notice_s=0.1)
        return Server(coordinator, ServerOptions(listen=(self._listen,), access=OPEN, arena=self._arena, limits=limits))


@pytest.fixture
def often(monkeypatch, caplog):
    seams.WAIT_NOTICE_S.put(monkeypatch, 0.1)
    caplog.set_level(logging.INFO, logger="ckptd")
    return caplog


def said(caplog, logger, *words):
    lines = [record.getMessage() for record in caplog.records if record.name == logger]
    return any(all(word in line for word in words) for line in lines)


def test_both_ends_say_which_rank_is_missing_where_it_is_and_at_which_step(tmp_path, often):
    daemon = Talkative(tmp_path / "root", notice_s=0.1, declare_timeout_s=8.0)
    ranks = [Checkpointer(daemon.address, run="r", rank=rank, world_size=2) for rank in range(2)]
    try:
        ranks[1].save(7, ARRAYS)
        eventually(lambda: said(often, "ckptd.engine", "step 7", "waits"))
        failed = ranks[0].save(5, ARRAYS)
        words = ("step 5", "rank 1 of 2 to declare", f"pid {os.getpid()} on ", "which waits with step 7")
        eventually(lambda: said(often, "ckptd.engine", *words), "the daemon's line")
        eventually(lambda: said(often, "ckptd.client", *words), "the client's line")
        failure = str(failed.exception(BOUND_S))
        assert "rank 1 of 2 has not declared its tensors (8 s): rank 1: pid" in failure
    finally:
        for rank in ranks:
            with contextlib.suppress(CkptdError):  # its save was aborted
                rank.close()
        daemon.stop()


def test_both_ends_say_that_the_store_is_awaited(tmp_path, often, monkeypatch):
    store = Failing(LocalStore(str(tmp_path / "root")))
    monkeypatch.setattr("tests.unit.client.served.open_store", lambda root: store)
    daemon = Talkative(tmp_path / "root", notice_s=0.1)
    try:
        with Checkpointer(daemon.address, run="r", timeout_s=60.0) as checkpointer:
            checkpointer.save(1, ARRAYS).result()
            store.hang("put r/model.ckpt-2.index")
            pending = checkpointer.save(2, ARRAYS)
            eventually(lambda: said(often, "ckptd.engine", "step 2", "the store, which puts the index in place"))
            eventually(lambda: said(often, "ckptd.client", "step 2", "durable"))
            store.go_on()
            pending.result(BOUND_S)
    finally:
        store.go_on()
        daemon.stop()
