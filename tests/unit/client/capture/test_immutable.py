"""Saves of arrays that never change: nobody waits for them to be copied."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import ckptd
from ckptd.errors import SessionAbortedError
from tests import seams

BOUND_S = 60.0
ARRAYS = {"w": np.arange(100_000.0), "b": np.arange(7)}


@pytest.fixture(params=["shared memory", "shared memory, followed", "stream", "direct", "direct, followed"])
def ckpt(request, daemon, tmp_path, monkeypatch):
    if "followed" in request.param:  # as a capture is that takes long
        seams.COPIED_FIRST_BYTES.put(monkeypatch, 0)
    if request.param == "stream":
        monkeypatch.setenv("CKPTD_TRANSPORT", "stream")
    where = tmp_path / "direct" if "direct" in request.param else daemon.address
    with ckptd.Checkpointer(where, run="r", rank=0, world_size=1, timeout_s=BOUND_S) as opened:
        yield opened


def test_the_call_returns_before_anything_is_copied(ckpt, monkeypatch):
    gate, copy = threading.Event(), seams.COPY_PIECE.value

    def slow(source, to):
        assert gate.wait(BOUND_S)
        return copy(source, to)

    seams.COPY_PIECE.put(monkeypatch, slow)
    pending = ckpt.save(1, ARRAYS, immutable=True)  # would never return if it waited
    assert not pending.done()
    gate.set()
    assert pending.result(BOUND_S).step == 1
    restored = ckpt.restore(1)
    assert all(np.array_equal(restored[name], array) for name, array in ARRAYS.items())


def test_a_copy_that_fails_fails_the_save_and_leaves_the_next_in_peace(ckpt, monkeypatch, caplog):
    with monkeypatch.context() as patched:
        seams.COPY_PIECE.put(patched, lambda *_: 1 / 0)
        pending = ckpt.save(1, ARRAYS, immutable=True)
        with pytest.raises(SessionAbortedError, match="could not be copied"):
            pending.result(BOUND_S)
    assert "ZeroDivisionError" in caplog.text
    ckpt.save(2, ARRAYS, immutable=True).result(BOUND_S)
    assert [each.step for each in ckpt.checkpoints()] == [2]
