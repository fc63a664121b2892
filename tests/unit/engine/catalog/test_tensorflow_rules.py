"""The timelines that TensorFlow's Saver and CheckpointManager had, told to the two rules alone."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from ckptd.engine.catalog.tensorflow_rules import Leaving, ManagerHousekeeping, SaverHousekeeping
from ckptd.format.state_file import CheckpointState
from tests.conformance.bundle_files import FIXTURES


def manifest(folder: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FIXTURES / "tf" / folder / "manifest.json").read_text())
    return loaded


def saver_timelines() -> list[tuple[str, list[dict[str, Any]]]]:
    cases = [(name, case) for name, case in manifest("saver_state")["cases"].items() if name != "no_state"]
    return [*cases, ("every_n_hours", manifest("saver_every_n_hours")["timeline"])]


@pytest.mark.parametrize(("name", "events"), saver_timelines(), ids=[name for name, _ in saver_timelines()])
def test_the_rule_of_a_saver_gives_its_timelines(name: str, events: list[dict[str, Any]]) -> None:
    files: set[str] = set()
    for event in events:
        if event["do"] == "create Saver":
            arguments = event["args"]
            hours = arguments.get("keep_checkpoint_every_n_hours", 10000.0)
            saver = SaverHousekeeping(arguments.get("max_to_keep", 5), hours, event["t"])
        elif event["do"] == "recover_last_checkpoints":
            saver.recover((path.removeprefix("./"), at) for path, at in event["last_checkpoints_with_time"])
        else:
            saver.record(event["returned"], event["t"])
            files.add(event["returned"].rpartition("/")[2])
            victim = saver.next_victim()
            if victim is not None and not victim.is_kept:
                files.remove(victim.path.rpartition("/")[2])
            assert saver.paths == [path.removeprefix("./") for path in event["last_checkpoints"]]
            assert sorted(files) == sorted(f.removesuffix(".index") for f in event["files"] if f.endswith(".index"))
        if "next_checkpoint_time" in event:
            assert saver.next_keep == event["next_checkpoint_time"]
    assert files


TIMELINES = [name for name in manifest("manager_every_n_hours") if name.startswith("timeline")]


@pytest.mark.parametrize("name", TIMELINES)
def test_the_rule_of_a_manager_gives_its_timelines(name: str) -> None:
    files: set[str] = set()
    state: CheckpointState | None = None
    for event in manifest("manager_every_n_hours")[name]:
        if event["do"] == "overwrite state file":
            state = CheckpointState.decode(event["text"].encode())
            continue
        if event["do"] == "create CheckpointManager":
            arguments = event["args"]
            manager = ManagerHousekeeping.start(
                arguments["max_to_keep"],
                arguments.get("keep_checkpoint_every_n_hours"),
                event["t"],
                paths=state.all_model_checkpoint_paths if state else (),
                timestamps=state.all_model_checkpoint_timestamps if state else (),
                last_preserved=state.last_preserved_timestamp if state else None,
            )
        else:
            path = event["returned"].rpartition("/")[2]
            manager.record(path, event["t"])
            files.add(path)
            files -= {each.path for each in manager.sweep() if not each.is_kept}
            times = tuple(manager.active.values())
            state = CheckpointState(path, tuple(manager.active), times, manager.preserved)
            assert state.encode().decode() == event["state"]
            assert sorted(files) == sorted(f.removesuffix(".index") for f in event["files"] if f.endswith(".index"))
        assert list(manager.active) == [path.rpartition("/")[2] for path in event["checkpoints"]]
        assert manager.preserved == event["last_preserved_timestamp"]


def test_the_hours_of_a_saver_are_rounded_to_float32() -> None:
    assert SaverHousekeeping(5, 0.7, 0.0).next_keep == pytest.approx(2519.99995708, abs=1e-8)
    assert SaverHousekeeping(5, 1e300, 0.0).next_keep == math.inf


def test_a_list_that_is_too_long_stays_as_long() -> None:
    saver = SaverHousekeeping(2, 1.0, 0.0)
    saver.recover([("a", 1.9), ("b", 2.9), ("c", 3.9), ("d", 4.9)])
    saver.record("e", 5.0)
    assert saver.next_victim() == Leaving("a", 1, is_kept=False)
    assert saver.next_victim() is None
    assert saver.paths == ["b", "c", "d", "e"]


def test_saved_at_the_very_moment_is_not_after_it() -> None:
    saver = SaverHousekeeping(1, 1.0, 0.0)
    for path, at in [("a", 3600.0), ("b", 3600.5), ("c", 3600.5)]:
        saver.record(path, at)
    assert [saver.next_victim(), saver.next_victim()] == [Leaving("a", 3600.0, False), Leaving("b", 3600.5, True)]
    assert saver.next_keep == 7200
