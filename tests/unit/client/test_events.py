"""`on_event`: what a training program hears of its saves and restores, and that hearing harms none of them."""

from __future__ import annotations

import logging
import threading
import time

import numpy as np
import pytest

import ckptd
from ckptd.errors import InvalidRequestError, SessionAbortedError
from ckptd.events import Failed, FellBack, Restored, Saved, Slow
from tests import seams
from tests.fakes.waiting import eventually
from tests.unit.client.served import Daemon

W = {"w": np.arange(1000.0)}


def test_a_save_and_a_restore_are_told_with_their_numbers(tmp_path):
    heard = []
    with ckptd.Checkpointer(tmp_path, "a", on_event=heard.append) as checkpointer:
        checkpointer.save(3, W).result()
        checkpointer.restore()
    saved, restored = heard
    assert (type(saved), saved.step, saved.run, saved.rank, saved.world_size) == (Saved, 3, "a", 0, 1)
    assert saved.checkpoint.size_bytes == 8000
    assert set(saved.stall) == {"waiting", "preparing", "copying", "declaring"}
    assert saved.durable_s > 0  # not always longer than the stall: a small save is durable before its call returns
    assert sum(saved.stall.values()) > 0
    assert (type(restored), restored.step, restored.size_bytes) == (Restored, 3, 8000)
    assert "step 3 of a is saved: 8,000 bytes" in str(saved)


def test_what_raises_in_save_and_what_fails_later_are_both_told(tmp_path):
    heard = []
    daemon = Daemon(tmp_path, declare_timeout_s=0.3)
    try:
        checkpointer = ckptd.Checkpointer(daemon.address, "a", rank=0, world_size=2, on_event=heard.append)
        with pytest.raises(InvalidRequestError):
            checkpointer.save(3, {"w": object()})
        lost = checkpointer.save(4, W)  # rank 1 never comes
        assert isinstance(lost.exception(), SessionAbortedError)
        checkpointer.close()
    finally:
        daemon.stop()
    assert [(type(each), each.step, type(each.error)) for each in heard] == [
        (Failed, 3, InvalidRequestError),
        (Failed, 4, SessionAbortedError),
    ]
    assert "rank 1" in str(heard[1])


def test_a_save_that_waits_long_is_told_once_with_what_it_waits_for(tmp_path, monkeypatch):
    seams.WAIT_NOTICE_S.put(monkeypatch, 0.05)
    heard = []
    daemon = Daemon(tmp_path, declare_timeout_s=60.0)
    try:
        first, second = (
            ckptd.Checkpointer(
                daemon.address, "a", rank=rank, world_size=2, on_event=heard.append if not rank else None
            )
            for rank in range(2)
        )
        first.save(4, W)
        eventually(lambda: heard)
        second.save(4, W).result()
        first.close()
        second.close()
    finally:
        daemon.stop()
    assert [type(each) for each in heard] == [Slow, Saved]
    assert heard[0].waiting_for
    assert heard[0].step == 4


def test_going_back_to_an_older_step_is_told_before_its_restore(tmp_path):
    with ckptd.Checkpointer(tmp_path, "a") as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, W)
    with (tmp_path / "a/model.ckpt-2.data-00000-of-00001").open("r+b") as shard:
        shard.write(b"wrong")
    heard = []
    with ckptd.Checkpointer(tmp_path, "a", on_event=heard.append) as checkpointer:
        checkpointer.restore()
    assert [(type(each), each.step) for each in heard] == [(FellBack, 1), (Restored, 1)]
    assert heard[0].damaged_step == 2
    assert "model.ckpt-2" in heard[0].reason


def test_a_receiver_that_raises_is_logged_once_and_called_again(tmp_path, caplog):
    heard = []

    def fails(event):
        raise RuntimeError("no network")

    with (
        caplog.at_level(logging.WARNING, "ckptd.client"),
        ckptd.Checkpointer(tmp_path, "a", on_event=[fails, heard.append]) as checkpointer,
    ):
        for step in (1, 2):
            checkpointer.save(step, W).result()
    assert [each.step for each in heard] == [1, 2]
    assert len([each for each in caplog.records if "on_event has failed" in each.message]) == 1


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_a_receiver_that_ends_itself_ends_no_other(tmp_path, error, caplog):
    heard = []

    def ends(event):
        raise error

    with ckptd.Checkpointer(tmp_path, "a", on_event=[ends, heard.append]) as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, W).result()
    assert [each.step for each in heard] == [1, 2]
    assert "on_event has failed" in caplog.text


def test_one_that_hangs_is_waited_for_once_however_many_are_closed(tmp_path, monkeypatch):
    goes_on, hangs = threading.Event(), threading.Event()

    def hang(event):
        hangs.set()
        goes_on.wait(240.0)

    try:
        with ckptd.Checkpointer(tmp_path, "a", on_event=hang) as checkpointer:
            checkpointer.save(1, W).result()
            assert hangs.wait(60.0)
            seams.EVENTS_PATIENCE_S.put(monkeypatch, 0.0)
        seams.EVENTS_PATIENCE_S.put(monkeypatch, 1.0)
        began = time.monotonic()
        for number in range(200):  # 200 s, if each of them waited
            ckptd.Checkpointer(tmp_path, f"b{number}", on_event=hang).close()
        assert time.monotonic() - began < 100
    finally:
        goes_on.set()


def test_a_receiver_that_hangs_holds_up_no_save_and_no_end(tmp_path, monkeypatch, caplog):
    seams.EVENTS_PATIENCE_S.put(monkeypatch, 0.1)
    hangs, goes_on = threading.Event(), threading.Event()

    def hang(event):
        hangs.set()
        goes_on.wait(60.0)

    try:
        with ckptd.Checkpointer(tmp_path, "a", on_event=hang) as checkpointer:
            for step in (1, 2, 3):
                checkpointer.save(step, W).result()
            assert hangs.wait(60.0)
        assert "on_event has not returned" in caplog.text
    finally:
        goes_on.set()


def test_a_receiver_may_save_and_close(tmp_path):
    done = threading.Event()

    def use(event):
        if event.step == 1:
            checkpointer.save(2, W)
            checkpointer.close()
            done.set()

    checkpointer = ckptd.Checkpointer(tmp_path, "a", on_event=use)
    checkpointer.save(1, W)
    assert done.wait(60.0)
    assert ckptd.latest_checkpoint(tmp_path / "a").endswith("model.ckpt-2")


def test_a_wrong_receiver_is_refused_at_once(tmp_path):
    with pytest.raises(InvalidRequestError, match="on_event"):
        ckptd.Checkpointer(tmp_path, "a", on_event=["wandb"])
