from __future__ import annotations

import pytest

from tests.unit.client.daemon import Daemon


@pytest.fixture
def daemon(tmp_path):
    daemon = Daemon(tmp_path / "root", lease_s=1.0, declare_timeout_s=10.0)
    yield daemon
    daemon.stop()
