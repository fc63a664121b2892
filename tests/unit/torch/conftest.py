from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_daemon_and_one_process(monkeypatch):
    for variable in ("CKPTD_ADDRESS", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(variable, raising=False)
    yield
    from ckptd.torch import close_all

    close_all()
