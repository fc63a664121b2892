from __future__ import annotations

import pytest

from ckptd.storage.base import Durability
from ckptd.storage.memory import MemoryStore
from tests.suites.store_contract import StoreContract


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore("test")

    def test_it_says_that_nothing_survives_the_process(self, store: MemoryStore) -> None:
        assert store.durability is Durability.MEMORY
        assert store.free_bytes() is None
        assert store.url == "memory://test"

    def test_objects_carry_the_time_they_were_made_at(self) -> None:
        store = MemoryStore(wall_s=lambda: 1234.5)
        assert store.put("k", b"").modified_at == 1234.5
