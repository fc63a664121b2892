"""Everything that TensorFlow's Saver did in the recorded timelines, ours does at the same times to the same files."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

import ckptd
from tests.conformance.bundle_files import FIXTURES
from tests.fakes.clock import HandClock

STATE = json.loads((FIXTURES / "tf" / "saver_state" / "manifest.json").read_text())
HOURS = json.loads((FIXTURES / "tf" / "saver_every_n_hours" / "manifest.json").read_text())
SESSION = json.loads((FIXTURES / "tf" / "monitored_session" / "manifest.json").read_text())
META_GRAPH = b"a graph"


class Program:
    """The program that wrote the fixtures: two variables that follow from the step, and one Saver after another."""

    def __init__(self, directory):
        self.directory = directory
        self.clock = HandClock()
        self.v = np.zeros(2, np.float32)
        self.global_step = np.zeros((), np.int64)
        self.saver = None

    def replay(self, event):
        self.clock.jump(event["t"] - self.clock.wall_s())
        match event["do"]:
            case "create Saver":
                variables = {"v": self.v, "global_step": self.global_step}
                self.saver = ckptd.Saver(variables, clock=self.clock, **event["args"])
            case "save":
                self.save(event)
            case "recover_last_checkpoints":
                self.saver.recover_last_checkpoints(event["paths"])
                recovered = [path for path, _ in event["last_checkpoints_with_time"]]
                assert self.saver.last_checkpoints == recovered

    def save(self, event):
        step = event["step"]
        self.v[:] = step, -step
        self.global_step[()] = step
        args = event.get("args", {})
        prefix = self.saver.save(
            str(Path(event["returned"]).parent / "model.ckpt"),
            global_step=step,
            meta_graph=META_GRAPH if "meta_graph_suffix" in args else None,
            **args,
        )
        os.utime(prefix + ".index", (event["t"], event["t"]))
        assert prefix == event["returned"]
        assert self.saver.last_checkpoints == event["last_checkpoints"]
        assert sorted(os.listdir(self.directory)) == event["files"]
        state = Path(self.directory, args.get("latest_filename", "checkpoint"))
        assert (state.read_text() if state.exists() else None) == event["state"]


def check_bytes(directory, recorded):
    for name, facts in recorded.items():
        if not name.endswith((".meta", ".mg")):
            assert hashlib.sha256((directory / name).read_bytes()).hexdigest() == facts["sha256"], name


@pytest.mark.parametrize("case", STATE["cases"])
def test_a_saver_does_what_tensorflows_did(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    program = Program(case)
    for event in STATE["cases"][case]:
        program.replay(event)
    check_bytes(tmp_path, {name: facts for name, facts in STATE["files"].items() if name.startswith(case + "/")})
    assert {p.read_bytes() for p in tmp_path.glob("with_meta/*.mg")} <= {META_GRAPH}


def test_one_per_hour_is_kept_for_good_through_a_pause_and_a_restart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = Program(".")
    for event in HOURS["timeline"]:
        program.replay(event)
    check_bytes(tmp_path, HOURS["files"])


def train(directory, last_step):
    """Train as a monitored session does: restore the newest, save every four steps, return the steps saved."""
    w = np.zeros(1, np.float32)
    step = np.zeros((), np.int64)
    saver = ckptd.Saver({"w": w, "global_step": step}, sharded=True, save_relative_paths=True)
    state = ckptd.get_checkpoint_state(directory)
    if state is not None:
        saver.restore(state.model_checkpoint_path)
        saver.recover_last_checkpoints(state.all_model_checkpoint_paths)
    policy = ckptd.SavePolicy(every_steps=4)
    saved = []

    def save_if(wanted):
        if wanted:
            saver.save(directory / "model.ckpt", step, meta_graph=META_GRAPH)
            saved.append(int(step))

    save_if(policy.begin(int(step)))
    for number in range(int(step) + 1, last_step + 1):
        w[:] += 0.5
        step[()] = number
        save_if(policy.after_step(number))
    save_if(policy.end(last_step))
    return saved


def test_a_monitored_session_saves_first_every_few_steps_and_last(tmp_path):
    for run in SESSION["runs"]:
        assert train(tmp_path, run["stop_at_step"]) == run["steps_saved"]
        assert (tmp_path / "checkpoint").read_text() == run["state"]
        assert sorted(os.listdir(tmp_path)) == run["files"]
    check_bytes(tmp_path, SESSION["files"])
