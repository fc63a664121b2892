from __future__ import annotations

import pytest

from ckptd.client.daemon.seats import SEATS
from ckptd.client.direct.engines import ENGINES
from tests import seams
from tests.unit.client.served import Daemon


@pytest.fixture
def another_process():
    """Return what makes the next `Checkpointer` share nothing with those that are there, as in another process."""

    def begin():
        ENGINES.forget()
        SEATS.forget()

    return begin


@pytest.fixture
def memory_is_waited_for(monkeypatch):
    """The first save waits for the daemon's memory as long as a busy machine takes, and is not sent instead."""
    seams.MEMORY_FIRST_JOIN_S.put(monkeypatch, 60.0)
    seams.MEMORY_CONNECT_S.put(monkeypatch, 60.0)


@pytest.fixture
def daemon(tmp_path):
    daemon = Daemon(tmp_path / "root", lease_s=1.0, declare_timeout_s=60.0)
    yield daemon
    daemon.stop()
