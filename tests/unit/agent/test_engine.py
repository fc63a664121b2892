"""The agent of a host is an engine: it keeps the contract that a coordinator keeps, with a coordinator behind it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.fakes.served_hosts import served_hosts
from tests.suites.engine_contract import EngineContract


class TestAgent(EngineContract):
    @pytest.fixture
    def hosts(self):
        with tempfile.TemporaryDirectory(prefix="ckptd-") as base, served_hosts(Path(base), ["a"]) as running:
            yield running

    @pytest.fixture
    def engine(self, hosts):
        return hosts.agents["a"].engine

    @pytest.fixture
    def owner(self, hosts):
        return hosts.coordinator.engine
