"""Power fails at every operation of a Saver's saves, of new steps and over old ones: what was published is whole."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
import pytest

import ckptd
from ckptd.storage.local.local_store import LocalStore
from tests import seams
from tests.fakes.disk import PowerCut, SimulatedDisk

HERE = "/ckpts"
STEPS = [1, 1, 2, 3]  # over itself, and then with one leaving the list


@dataclass
class World:
    """A program that saves, and what it was told: prefix → the value that its tensor must have."""

    acknowledged: dict[str, int] = field(default_factory=dict)
    begun: tuple[str, int] | None = None
    value: np.ndarray = field(default_factory=lambda: np.zeros(3, np.int64))

    def run(self, steps, first_value=1):
        saver = ckptd.Saver({"v": self.value, "words": np.array([b"a", b"bc"], object)}, max_to_keep=2)
        for value, step in enumerate(steps, first_value):
            self.value[:] = value
            self.begun = f"{HERE}/m-{step}", value
            prefix = saver.save(f"{HERE}/m", step, meta_graph=b"%d" % value)
            assert prefix == self.begun[0]
            self.acknowledged.pop(prefix, None)
            self.acknowledged[prefix] = value

    def check(self):
        """Everything that the state file lists is whole, and the latest is the last acknowledged or the one begun."""
        state = ckptd.get_checkpoint_state(HERE)
        if state is None:
            assert not self.acknowledged
            return
        latest = list(self.acknowledged)[-1:]
        assert state.model_checkpoint_path in [*latest, self.begun[0]]
        for prefix in state.all_model_checkpoint_paths:
            found = ckptd.load_variable(prefix, "v").tolist()
            allowed = [self.acknowledged.get(prefix)] + [value for name, value in [self.begun] if name == prefix]
            assert found[0] in allowed, (prefix, found, allowed)
            assert found == found[:1] * 3
            assert ckptd.load_variable(prefix, "words").tolist() == [b"a", b"bc"]
            assert not [one for one in ckptd.verify(prefix).problems if one.is_fatal]


@pytest.fixture
def put_disk(monkeypatch):
    def put(disk):
        seams.STORE_OF_DIRECTORY.put(monkeypatch, lambda root, **options: LocalStore(root, **{**options, "disk": disk}))

    return put


def test_power_may_fail_at_any_operation_of_a_saver(put_disk):
    num_states = 0
    for number in itertools.count(1):
        disk, world = SimulatedDisk(dies_at=number), World()
        put_disk(disk)
        try:
            world.run(STEPS)
        except PowerCut:
            pass
        else:
            break
        for crash in itertools.islice(disk.crashes(seed=number), 4):
            num_states += 1
            after = disk.reboot(crash)
            put_disk(after)
            world.check()
            again = World()
            again.run([1, 3], first_value=50)
            again.check()
            assert [path for path in after.paths() if "/m-3." in path] == [
                f"{HERE}/m-3.{suffix}" for suffix in ("data-00000-of-00001", "index", "meta")
            ]
    assert num_states > 200


def test_a_save_that_fails_midway_is_neither_listed_nor_in_the_way(put_disk):
    clean = SimulatedDisk()
    put_disk(clean)
    World().run(STEPS)
    for number in range(1, len(clean.operations) + 1, 3):
        disk, world = SimulatedDisk(fails_at=number), World()
        put_disk(disk)
        try:
            world.run(STEPS)
        except ckptd.CkptdError:
            world.check()
            World().run(STEPS)  # the same again succeeds
        else:
            world.check()  # only a deletion failed: that is no failure of the save
