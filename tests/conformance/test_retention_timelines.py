"""Every timeline that was recorded of Saver and CheckpointManager: the same files, the same text, after every event."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ckptd.engine.catalog.retention import Rule
from tests.conformance.bundle_files import FIXTURES
from tests.conformance.retention_replay import Replay, as_one_shard

Event = dict[str, Any]


def manifest(folder: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FIXTURES / "tf" / folder / "manifest.json").read_text())
    return loaded


SAVERS: list[tuple[str, list[Event]]] = [
    *manifest("saver_state")["cases"].items(),
    ("every_n_hours", manifest("saver_every_n_hours")["timeline"]),
]


@pytest.mark.parametrize(("name", "events"), SAVERS, ids=[name for name, _ in SAVERS])
def test_what_a_saver_did_is_done_again(name: str, events: list[Event], tmp_path: Path) -> None:
    replay = Replay(tmp_path / "run", events[0]["t"])
    for event in events:
        replay.clock.jump(event["t"] - replay.clock.wall_s())
        options = event.get("args", {})
        latest = next(
            (each["args"]["latest_filename"] for each in events if "latest_filename" in each.get("args", {})), ""
        )
        if event["do"] == "create Saver":
            replay.start(
                Rule.SAVER,
                options.get("max_to_keep", 5),
                options.get("keep_checkpoint_every_n_hours", 10000.0),
                latest_filename=latest or "checkpoint",
                pad=options.get("pad_step_number", False),
            )
        elif event["do"] == "save":
            suffix = options.get("meta_graph_suffix")
            replay.save(
                "model.ckpt",
                event["step"],
                meta=b"graph" if suffix else None,
                meta_suffix=suffix or "meta",
                write_state=options.get("write_state", True),
            )
            assert replay.files() == as_one_shard(event["files"])
            assert replay.state(latest or "checkpoint") == event["state"]


MANAGERS = {name: events for name, events in manifest("manager_every_n_hours").items() if name.startswith("timeline")}


@pytest.mark.parametrize("name", MANAGERS)
def test_what_a_manager_did_is_done_again(name: str, tmp_path: Path) -> None:
    events = MANAGERS[name]
    replay = Replay(tmp_path / "run", events[0]["t"])
    for event in events:
        replay.clock.jump(event["t"] - replay.clock.wall_s())
        if event["do"] == "create CheckpointManager":
            options = event["args"]
            replay.start(Rule.MANAGER, options["max_to_keep"], options.get("keep_checkpoint_every_n_hours"))
        elif event["do"] == "save":
            replay.save("ckpt", event["checkpoint_number"])
            assert replay.files() == as_one_shard(event["files"])
            assert replay.state() == event["state"]
        else:
            (replay.directory / "checkpoint").write_text(event["text"])


def test_a_session_that_resumes_lists_what_a_monitored_session_lists(tmp_path: Path) -> None:
    replay = Replay(tmp_path / "run", 1.6e9)
    for steps in ([0, 4, 8, 10], [10, 13]):
        replay.clock.advance(100)
        replay.start(Rule.SAVER, 5, 10000.0)
        for step in steps:
            replay.clock.advance(1)
            replay.save("model.ckpt", step, meta=b"graph")
    folder = FIXTURES / "tf" / "monitored_session"
    assert replay.state() == (folder / "checkpoint").read_text()
    recorded = [path.name for path in folder.iterdir() if path.name != "manifest.json"]
    assert replay.files() == as_one_shard(recorded)


def test_absolute_paths_are_written_in_full_and_recovered(tmp_path: Path) -> None:
    replay = Replay(tmp_path / "run", 1.6e9)
    for relative in (True, False, False, True):
        replay.start(Rule.SAVER, 2, 10000.0, relative=relative)
        replay.save("m", int(replay.clock.wall_s()))
        replay.clock.advance(1)
        paths = [line.partition('"')[2].rstrip('"') for line in (replay.state() or "").splitlines()]
        assert all(Path(path).parent == (Path() if relative else replay.directory) for path in paths)
    assert [each.step for each in replay.start(Rule.SAVER, 2, 1.0).contents.checkpoints()] == [1600000002, 1600000003]
