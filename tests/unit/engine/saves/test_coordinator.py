"""A coordinator does for the service what every engine does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ckptd.engine.front import Engine
from ckptd.engine.saves.coordinator import Coordinator
from ckptd.engine.settings import Settings
from ckptd.storage.memory import MemoryStore
from tests.fakes.clock import HandClock
from tests.suites.engine_contract import EngineContract


class TestCoordinator(EngineContract):
    @pytest.fixture
    def engine(self) -> Iterator[Engine]:
        coordinator = Coordinator(MemoryStore(), settings=Settings(undo_s=60.0), clock=HandClock())
        coordinator.open()
        yield coordinator
        coordinator.close()
