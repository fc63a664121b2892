"""A coordinator does for the service what every engine does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ckptd.engine.catalog import records, survey
from ckptd.engine.catalog.state_file import can_be_state
from ckptd.engine.front import Engine
from ckptd.engine.identity import SaveRef
from ckptd.engine.saves.coordinator import Coordinator
from ckptd.engine.settings import Settings
from ckptd.errors import CorruptionError
from ckptd.storage.local.shared_directory import SharedDirectory
from ckptd.storage.local.versions import directory_of
from ckptd.storage.memory import MemoryStore
from tests.fakes.clock import HandClock
from tests.fakes.job import WAIT_S, Rank, save_all
from tests.suites.engine_contract import RUN, EngineContract


class TestCoordinator(EngineContract):
    @pytest.fixture
    def engine(self) -> Iterator[Engine]:
        coordinator = Coordinator(MemoryStore(), settings=Settings(undo_s=60.0), clock=HandClock())
        coordinator.open()
        yield coordinator
        coordinator.close()


def test_saves_have_the_order_in_which_they_began_also_if_the_later_one_is_planned_sooner() -> None:
    store = MemoryStore()
    coordinator = Coordinator(store, settings=Settings(undo_s=60.0), clock=HandClock())
    coordinator.open()
    later_is_noted = threading.Event()

    def admit(save: SaveRef, size_bytes: int) -> bool:
        """Hold the plan of the first save up until that of the second is made."""
        return save.step != 1 or later_is_noted.wait(WAIT_S)

    coordinator.admit = admit
    rank = Rank(coordinator, 0, 1).join()
    rank.declare(1)
    rank.declare(2)
    rank.assignment(2)
    later_is_noted.set()
    for step in (2, 1):
        rank.send(step)
    for step in (1, 2):
        rank.outcome(step)
    noted = sorted(records.load(store, RUN).found, key=lambda record: record.sequence)
    assert [record.step for record in noted] == [1, 2]
    assert [each.step for each in survey.list_checkpoints(store, RUN)] == [1, 2]
    coordinator.close()


def test_what_a_daemon_repairs_itself_is_no_other_owners(tmp_path: Path) -> None:
    store = SharedDirectory(tmp_path)  # without locks: by its signature each owner keeps others out
    coordinator = Coordinator(store, settings=Settings(undo_s=60.0), clock=HandClock())
    coordinator.open()
    rank = Rank(coordinator, 0, 1).join()
    assert save_all([rank], 1).step == 1
    coordinator.close()
    store.replace(f"{RUN}/checkpoint", b"\xff is no state file")
    coordinator = Coordinator(store, settings=Settings(undo_s=60.0), clock=HandClock())
    coordinator.open()
    life = coordinator.root.life
    assert life is not None
    coordinator.root.life = replace(life, began_at=life.began_at - 3600.0)  # it has run for an hour
    with pytest.raises(CorruptionError):
        coordinator.checkpoints(RUN)
    assert coordinator.repair(RUN, "checkpoint").is_changed
    assert [each.step for each in coordinator.checkpoints(RUN)] == [1]
    rank = Rank(coordinator, 0, 1, life="b").join()
    assert save_all([rank], 2).step == 2
    coordinator.close()


def test_a_file_among_the_versions_of_a_state_file_takes_no_run_back(tmp_path: Path) -> None:
    store = SharedDirectory(str(tmp_path), is_sound=can_be_state)
    coordinator = Coordinator(store, settings=Settings(), clock=HandClock())
    coordinator.open()
    rank = Rank(coordinator, 0, 1).join()
    assert [save_all([rank], step).step for step in (1, 2)] == [1, 2]
    state = (tmp_path / RUN / "checkpoint").read_bytes()
    versions = tmp_path / RUN / directory_of("checkpoint")
    newest = max(int(path.name) for path in versions.iterdir())
    for number, stray in enumerate((b"", b"\xff", b"a backup\n"), newest + 1):
        (versions / f"{number}").write_bytes(stray)
    assert [each.step for each in coordinator.checkpoints(RUN)] == [1, 2]
    assert (tmp_path / RUN / "checkpoint").read_bytes() == state
    assert save_all([rank], 3).step == 3
    coordinator.close()
    coordinator = Coordinator(store, settings=Settings(), clock=HandClock())
    coordinator.open()
    assert [each.step for each in coordinator.checkpoints(RUN)] == [1, 2, 3]
    coordinator.close()
