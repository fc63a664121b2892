from __future__ import annotations

import itertools

import pytest

from tests.conformance.dcp.pool import Pool
from tests.unit.client.served import Daemon


@pytest.fixture(scope="session")
def pool(tmp_path_factory):
    from tests.unit.torch.versions import has

    if not has(2, 7):
        pytest.skip("gloo of this torch may hang as a group ends")
    pool = Pool(4, tmp_path_factory.mktemp("meetings"))
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def daemon(tmp_path_factory):
    root = tmp_path_factory.mktemp("daemon") / "root"
    daemon = Daemon(root, arena_bytes=64 << 20, lease_s=5.0, declare_timeout_s=60.0)
    yield daemon
    daemon.stop()


_NUMBERS = itertools.count()


@pytest.fixture
def run():
    """The name of a run that no other test uses."""
    return f"runs/{next(_NUMBERS)}"
