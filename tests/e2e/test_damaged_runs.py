"""One damaged file in one run: that run is quarantined, or served without it; all other runs never notice."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest

import ckptd
from ckptd.cli import main
from ckptd.errors import CkptdError, CorruptionError, NotPermittedError
from tests.fakes import damage, schemas
from tests.fakes.waiting import eventually
from tests.starts.daemons import Daemon

WITHIN_S = 120.0


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A daemon over a sound run and one run for each kind of damage, all of them copies of the sound one."""
    here = tmp_path_factory.mktemp("damaged")
    root = here / "root"
    with ckptd.Checkpointer(str(root), run="good", rank=0, world_size=1) as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, {"w": np.arange(3.0)}).result(60)
    for name, make in {**damage.OPENING, **damage.SERVED}.items():
        shutil.copytree(root / "good", root / "bad" / name)
        make(root / "bad" / name)
    (root / "no name of a run" / ".ckptd").mkdir(parents=True)
    (root / ".ckptd" / "id").write_bytes(b"z" * 100)
    process = Daemon(root, here / "daemon.log", here / "daemon.json")
    try:
        process.wait_until_ready()
        host, port = process.port()
        yield root, f"{host}:{port}", here / "daemon.log"
    finally:
        code = process.stop()
    assert code == 0, (here / "daemon.log").read_text()


def status(address, capsys):
    assert main.run(["status", address, "--json"]) == 0
    document = schemas.check("status", json.loads(capsys.readouterr().out))
    return {run["run"]: run for run in document["runs"]}


def wait_for_status(address, capsys, condition):
    def found():
        runs = status(address, capsys)
        return runs if condition(runs) else None

    return eventually(found, lambda: status(address, capsys), within_s=WITHIN_S)


def trainer(address, run):
    return ckptd.Checkpointer(f"grpc://{address}", run=run, rank=0, world_size=1, timeout_s=60)


def test_every_damaged_run_is_told_of_with_its_reason_and_the_way_out(served, capsys):
    root, address, log = served
    bad = {f"bad/{name}" for name in (*damage.OPENING, *damage.SERVED)}
    runs = wait_for_status(address, capsys, lambda runs: bad <= set(runs))
    for name in damage.OPENING:
        assert f"`ckptd repair {root / 'bad' / name}`" in runs[f"bad/{name}"]["quarantined"]
        assert runs[f"bad/{name}"]["quarantined"] in log.read_text()
    for name in damage.SERVED:
        assert runs[f"bad/{name}"]["quarantined"] is None
        assert f"`ckptd repair {root / 'bad' / name}`" in runs[f"bad/{name}"]["problems"][0]
    assert main.run(["status", address]) == 0
    assert "QUARANTINED: bad/state-empty" in capsys.readouterr().out


def test_the_sound_run_saves_beside_them(served):
    _, address, _ = served
    with trainer(address, "good") as checkpointer:
        checkpointer.save(3, {"w": np.arange(3.0)}).result(WITHIN_S)
        assert checkpointer.latest().step == 3


def test_what_only_has_the_name_of_an_unfinished_object_is_left_alone(tmp_path):
    with ckptd.Checkpointer(tmp_path, run="run") as checkpointer:
        checkpointer.save(1, {"w": np.arange(3.0)}).result(WITHIN_S)
    unfinished = {kind: tmp_path / f"run/.{kind}.{'a' * 32}.ckptd-tmp" for kind in ("link", "loop", "directory")}
    unfinished["link"].symlink_to("/etc/passwd")
    unfinished["loop"].symlink_to(unfinished["loop"].name)
    unfinished["directory"].mkdir()
    with ckptd.Checkpointer(tmp_path, run="run") as checkpointer:
        assert checkpointer.restore()["w"].tolist() == [0, 1, 2]
        checkpointer.save(2, {"w": np.arange(3.0)}).result(WITHIN_S)
    assert unfinished["link"].is_symlink()
    assert unfinished["directory"].is_dir()


@pytest.mark.parametrize("name", damage.OPENING)
def test_a_run_that_cannot_be_opened_is_refused_repaired_and_taken_back(served, name, capsys):
    root, address, _ = served
    run, directory = f"bad/{name}", str(root / "bad" / name)
    with trainer(address, run) as checkpointer, pytest.raises((CorruptionError, NotPermittedError)) as refused:
        checkpointer.latest()
    assert f"`ckptd repair {directory}`" in str(refused.value)
    assert main.run(["repair", directory, "--address", address, "--json"]) == 0
    document = schemas.check("repair", json.loads(capsys.readouterr().out))
    assert document["changed"]
    assert document["latest"] == f"{directory}/model.ckpt-{1 if name.startswith('index') else 2}"
    assert status(address, capsys)[run]["quarantined"] is None
    with trainer(address, run) as checkpointer:
        checkpointer.save(9, {"w": np.arange(3.0)}).result(WITHIN_S)
        assert checkpointer.latest().step == 9


@pytest.mark.parametrize("name", damage.SERVED)
def test_a_damaged_record_is_put_aside_and_its_run_goes_on(served, name, capsys):
    root, address, _ = served
    run, directory = f"bad/{name}", str(root / "bad" / name)
    with trainer(address, run) as checkpointer:
        assert checkpointer.latest().step == 2
        checkpointer.save(3, {"w": np.arange(3.0)}).result(WITHIN_S)
    assert main.run(["repair", directory, "--address", address, "--json"]) == 0
    assert len(schemas.check("repair", json.loads(capsys.readouterr().out))["mended"]) == 1
    assert status(address, capsys)[run]["problems"] == []


@pytest.mark.parametrize(
    "name", [name for name in damage.OPENING if name.startswith("state") and "outside" not in name]
)
def test_ls_shows_what_is_there_and_what_is_damaged(tmp_path, name, capsys):
    with ckptd.Checkpointer(str(tmp_path), run="run", rank=0, world_size=1) as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, {"w": np.arange(3.0)}).result(60)
    damage.OPENING[name](tmp_path / "run")
    assert main.run(["ls", str(tmp_path / "run"), "--json"]) == CorruptionError.exit_code
    document = schemas.check("ls", json.loads(capsys.readouterr().out))
    assert [each["step"] for each in document["checkpoints"]] == [1, 2]
    assert document["quarantined"]
    assert main.run(["ls", str(tmp_path / "run")]) == CorruptionError.exit_code
    assert "ckptd repair" in capsys.readouterr().err
    assert main.run(["repair", str(tmp_path / "run")]) == 0
    assert main.run(["ls", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize("what", ["link", "pipe"])
def test_what_lies_in_the_place_of_a_run_is_not_said_to_be_mended_by_repair(served, what, tmp_path):
    root, address, _ = served
    run = f"in-place-{what}"
    if what == "link":
        (root / run).symlink_to(tmp_path)
    else:
        os.mkfifo(root / run)
    with trainer(address, run) as checkpointer, pytest.raises(CkptdError) as raised:
        checkpointer.latest()
        checkpointer.save(1, {"w": np.arange(3.0)}).result(60)
    assert "quarantined until this is put right by hand" in str(raised.value)
