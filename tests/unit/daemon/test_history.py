"""`ckptd history` of real processes: what a daemon keeps of its saves outlives its restarts and kills."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ckptd import Checkpointer
from ckptd.cli import main
from ckptd.engine.catalog import past_saves
from ckptd.errors import CkptdError
from ckptd.storage.locations import open_store
from tests.fakes import schemas
from tests.fakes.waiting import eventually

WAIT_S = 60


def said(capsys, *arguments, code=0):
    assert main.run(["history", *map(str, arguments)]) == code
    return capsys.readouterr()


def history(capsys, *arguments):
    return schemas.check("history", json.loads(said(capsys, *arguments, "--json").out))


def save(daemon, *steps, world_size=1):
    with Checkpointer(daemon.listening[0], "runs/a", rank=0, world_size=world_size) as ckpt:
        for step in steps:
            ckpt.save(step, {"w": np.ones(1000, np.float32)}).result(WAIT_S)


def test_saves_that_succeed_and_fail_are_listed_after_an_end_and_after_a_kill(serve, capsys, monkeypatch):
    monkeypatch.setenv("CKPTD_TRANSPORT", "stream")  # so that each save waits for its end, and tells its stall
    first = serve("--declare-timeout-s", "0.2").ready()
    save(first, 1)
    with pytest.raises(CkptdError, match="rank 1 of 2"):
        save(first, 2, world_size=2)
    found = history(capsys, "runs/a", "--address", first.listening[0])
    assert [(each["step"], each["outcome"], each["world_size"]) for each in found["saves"]] == [
        (1, "committed", 1),
        (2, "aborted", 2),
    ]
    assert set(found["saves"][0]["phases_s"]) == {"declare", "plan", "move", "seal", "commit", "publish"}
    assert found["saves"][0]["size_bytes"] == 4000
    assert "rank 1 of 2" in found["saves"][1]["culprit"]
    first.process.terminate()
    first.wait()
    second = serve(name="second").ready()
    save(second, 3, 4)
    store = open_store(str(second.root))
    eventually(lambda: len(past_saves.read(store, "runs/a")) == 4, second.log.read_text)
    second.process.kill()
    second.wait()
    third = serve(name="third").ready()
    found = history(capsys, "runs/a", "--address", third.listening[0], "--most", "3")
    assert (found["kept"], [each["step"] for each in found["saves"]]) == (4, [2, 3, 4])
    assert found["saves"][1]["stall_s"]
    here = history(capsys, second.root / "runs" / "a")  # without a daemon
    assert (here["where"], here["kept"]) == (str(second.root / "runs" / "a"), 4)


def test_people_get_what_is_usual_and_a_line_a_save(serve, capsys):
    daemon = serve().ready()
    save(daemon, 1, 2, 3)
    out = said(capsys, "runs/a", "--address", daemon.listening[0], "--most", "2").out
    assert "runs/a: 3 committed" in out
    assert "median" in out
    assert [line.split()[0] for line in out.splitlines()[-3:]] == ["STEP", "2", "3"]


def test_a_run_that_is_not_there_is_told_from_one_without_saves(serve, capsys):
    daemon = serve().ready()
    with Checkpointer(daemon.listening[0], "runs/a", rank=0, world_size=1) as ckpt:
        assert ckpt.latest() is None
        ckpt.save(1, {"w": np.ones(3)}).result(WAIT_S)
    assert "no run 'runs/b'" in said(capsys, "runs/b", "--address", daemon.listening[0], code=3).err
    (daemon.root / "direct").mkdir()
    assert "no save" in said(capsys, daemon.root / "direct").err
