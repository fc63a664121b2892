"""A full disk: the error says how much was needed and how much is free; and a warning comes before it is full."""

from __future__ import annotations

import errno
import logging
import os

import numpy as np
import pytest

import ckptd
from ckptd.errors import StorageFullError
from tests import seams
from tests.fakes.waiting import eventually
from tests.unit.client.served import Daemon

MB = 1_000_000


@pytest.fixture(params=["daemon", "direct"])
def address(request, tmp_path):
    return request.getfixturevalue("daemon").address if request.param == "daemon" else str(tmp_path / "root")


def arrays(size_bytes):
    return {"w": np.zeros(size_bytes, np.uint8)}


def test_a_save_that_does_not_fit_says_what_it_needs_and_what_is_free(address, monkeypatch):
    reserve = seams.RESERVE_ON_DISK.value

    def full(disk, file, size_bytes):
        if size_bytes > 3 * MB:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        reserve(disk, file, size_bytes)

    seams.RESERVE_ON_DISK.put(monkeypatch, full)
    seams.FREE_ON_DISK.put(monkeypatch, lambda *_: 3 * MB)
    with ckptd.Checkpointer(address, run="r") as ckpt:
        with pytest.raises(StorageFullError, match=r"the disk is full.*\(8\.0 MB needed, 3\.0 MB free\)") as caught:
            ckpt.save(1, arrays(8 * MB)).result()
        assert (caught.value.needed_bytes, caught.value.free_bytes) == (8 * MB, 3 * MB)
        assert ckpt.save(2, arrays(MB)).result().step == 2


@pytest.mark.parametrize(("free", "warnings"), [(30 * MB, 1), (300 * MB, 0)])
def test_it_is_told_once_where_what_is_kept_and_one_more_will_not_fit(address, monkeypatch, caplog, free, warnings):
    seams.FREE_ON_DISK.put(monkeypatch, lambda *_: free)
    with caplog.at_level(logging.WARNING), ckptd.Checkpointer(address, run="r", max_to_keep=5) as ckpt:
        for step in range(1, 4):
            ckpt.save(step, arrays(8 * MB)).result()
        if warnings:
            eventually(lambda: told_in(caplog), "the warning")
    told = told_in(caplog)
    assert len(told) == warnings
    if told:
        assert "max_to_keep=5 checkpoints of 8.0 MB" in told[0]
        assert "40.0 MB more are needed, 30.0 MB are free" in told[0]


def told_in(caplog):
    return [record.getMessage() for record in caplog.records if "will not fit" in record.getMessage()]


def test_status_shows_it_too(tmp_path, monkeypatch, capsys):
    from ckptd.cli import main

    seams.FREE_ON_DISK.put(monkeypatch, lambda *_: 10 * MB)
    daemon = Daemon(tmp_path / "root")
    try:
        with ckptd.Checkpointer(daemon.address, run="r", max_to_keep=None) as ckpt:
            ckpt.save(1, arrays(8 * MB)).result()
        with ckptd.Checkpointer(daemon.address, run="few", max_to_keep=2) as ckpt:
            ckpt.save(1, arrays(8 * MB)).result()
            eventually(lambda: any(view.problems for view in daemon.coordinator.runs()), "the warning")
            assert main.run(["status", daemon.address.removeprefix("grpc://")]) == 0
    finally:
        daemon.stop()
    shown = capsys.readouterr().out
    assert "WARNING: few: max_to_keep=2 checkpoints" in shown
    assert "WARNING: r:" not in shown
