"""Checkpoints are read again before somebody needs them: in the background, and by hand in parts."""

import json
import sys

import numpy as np
import pytest

import ckptd
from ckptd.engine.saves.coordinator import Coordinator
from ckptd.engine.saves.scrub import Scrub
from ckptd.engine.saves.served_catalog import ServedCatalog
from ckptd.engine.settings import Settings
from ckptd.storage.locations import open_store
from tests.fakes.waiting import eventually
from tests.starts import prepared

BOUND_S = 60.0


@pytest.fixture
def root(tmp_path):
    with ckptd.Checkpointer(tmp_path, "runs/a") as checkpointer:
        for step in (1, 2, 3):
            checkpointer.save(step, {f"w{n}": np.full(1000, step) for n in range(4)})
    return tmp_path


def records(root):
    found = (json.loads(path.read_text()) for path in (root / "runs/a/.ckptd").glob("*.json"))
    return {each["step"]: each for each in found}


def flip(path, at=100):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def run_ckptd(*arguments):
    return prepared.run(
        [sys.executable, "-m", "ckptd", *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )


def test_the_scrub_notes_what_verifies_and_quarantines_what_does_not(root):
    flip(root / "runs/a/model.ckpt-3.data-00000-of-00001")
    coordinator = Coordinator(open_store(str(root)), settings=Settings())
    coordinator.open()
    scrub = Scrub(coordinator, 1 << 30, every_s=0.001)
    try:
        eventually(lambda: [each.step for each in coordinator.in_catalog("runs/a", ServedCatalog.quarantined)] == [3])
        eventually(lambda: all(each.verified_at is not None for each in coordinator.checkpoints("runs/a")))
        assert coordinator.latest("runs/a").step == 2
    finally:
        scrub.close()
        coordinator.close()
    assert records(root)[3]["quarantined_by"] == "the scrub"
    assert records(root)[3]["verified_at"] is None


def test_the_scrub_reads_no_faster_than_it_may_and_ends_at_once(root):
    coordinator = Coordinator(open_store(str(root)), settings=Settings())
    coordinator.open()
    scrub = Scrub(coordinator, 1000, every_s=0.001)  # 96 kB would take a minute and a half
    try:
        assert all(each.verified_at is None for each in coordinator.checkpoints("runs/a"))
    finally:
        scrub.close()
        coordinator.close()


def test_a_verification_is_noted_and_shown(root):
    prefix = root / "runs/a/model.ckpt-2"
    assert run_ckptd("verify", prefix).returncode == 0
    assert records(root)[2]["verified_at"] is not None
    assert records(root)[1]["verified_at"] is None
    listed = json.loads(run_ckptd("ls", root / "runs/a", "--json").stdout)["checkpoints"]
    assert [each["verified_at"] is not None for each in listed] == [False, True, False]
    assert "verified" in run_ckptd("ls", root / "runs/a").stdout


def test_all_parts_together_are_all_of_it(root):
    prefix = root / "runs/a/model.ckpt-2"
    sizes = []
    for part in ("2/3", "1/3"):
        done = json.loads(run_ckptd("verify", prefix, "--subset", part, "--json").stdout)
        sizes.append(done["reports"][0]["size_bytes"])
        assert records(root)[2]["verified_at"] is None
    done = json.loads(run_ckptd("verify", prefix, "--subset", "3/3", "--json").stdout)
    assert sum(sizes) + done["reports"][0]["size_bytes"] == 32000
    assert all(sizes)
    assert records(root)[2]["verified_at"] is not None


def test_damage_is_found_by_the_part_that_it_is_in(root):
    flip(root / "runs/a/model.ckpt-2.data-00000-of-00001", 8100)
    codes = [run_ckptd("verify", root / "runs/a/model.ckpt-2", "--subset", f"{n}/4").returncode for n in (1, 2, 3, 4)]
    assert sorted(codes) == [0, 0, 0, 8]


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0"])
def test_what_is_no_part_is_refused(root, text):
    assert run_ckptd("verify", root / "runs/a/model.ckpt-2", "--subset", text).returncode == 2


def test_verifying_beside_a_trainer_says_that_it_is_not_noted(root):
    with ckptd.Checkpointer(root, "runs/a") as checkpointer:
        checkpointer.pin(1)
        done = run_ckptd("verify", root / "runs/a/model.ckpt-2", "--subset", "1/2")
    assert done.returncode == 0
    assert "not noted" in done.stderr
