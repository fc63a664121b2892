"""A disk that acknowledges writes and does not carry them out: nothing of it gets a name, nothing is published."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import ckptd
from ckptd.errors import CorruptionError
from ckptd.storage.local.local_store import LocalStore
from ckptd.storage.local.system_disk import SystemDisk
from tests import seams

BOUND_S = 60.0


class LyingDisk(SystemDisk):
    """Acknowledges what is written to files whose temporary name has this in it, and forgets it."""

    def __init__(self, part_of_name):
        super().__init__()
        self.part_of_name = part_of_name

    def lies(self, file):
        return self.part_of_name in os.readlink(f"/proc/self/fd/{file}")

    def write(self, file, offset, data, *, bulk):
        if not self.lies(file):
            super().write(file, offset, data, bulk=bulk)

    def write_direct(self, file, offset, data):
        return len(data) if self.lies(file.descriptor) else super().write_direct(file, offset, data)


def below(root):
    return sorted(path.name for path in Path(root).rglob("*") if path.is_file() and "lock" not in path.name)


@pytest.mark.parametrize("size", [1, 4096, 5000, 3 << 20])
@pytest.mark.parametrize("has_direct", [True, False])
def test_what_is_not_on_the_disk_is_not_acknowledged(tmp_path, size, has_direct, monkeypatch):
    data = np.random.default_rng(0).integers(1, 256, size, np.uint8).tobytes()
    disk = LyingDisk("lost")
    if not has_direct:
        monkeypatch.setattr(disk, "open_direct_again", lambda file: None)
    store = LocalStore(tmp_path, disk=disk)
    store.put("kept", data)
    with pytest.raises(CorruptionError, match="returns different ones"):
        store.put("lost", data)
    assert store.get("kept") == data
    disk.part_of_name = "kept"
    with pytest.raises(CorruptionError, match="returns different ones"):
        store.replace("kept", data[::-1] + b"!")
    assert store.get("kept") == data, "what was there is there"
    assert below(tmp_path) == ["kept"]
    disk.part_of_name = "nothing"
    store.put("lost", data)
    store.replace("kept", data[::-1] + b"!")
    assert (store.get("lost"), store.get("kept")) == (data, data[::-1] + b"!")


@pytest.mark.parametrize("lost", ["model.ckpt-2.index", ".checkpoint.", ".json"])
def test_a_save_whose_index_is_not_on_the_disk_fails_and_the_latest_stays(tmp_path, lost, monkeypatch):
    disk = LyingDisk("nothing")
    seams.STORE_OF_DIRECTORY.put(monkeypatch, lambda root, **options: LocalStore(root, **{**options, "disk": disk}))
    arrays = {"w": np.arange(1000.0)}
    with ckptd.Checkpointer(str(tmp_path / "root"), "r", rank=0, world_size=1, timeout_s=BOUND_S) as ckpt:
        ckpt.save(1, arrays).result(BOUND_S)
        disk.part_of_name = lost
        with pytest.raises(ckptd.CkptdError):
            ckpt.save(2, arrays).result(BOUND_S)
        assert ckpt.latest().step == 1
        disk.part_of_name = "nothing"
        ckpt.save(3, arrays).result(BOUND_S)
        assert ckpt.latest().step == 3
    assert ckptd.verify(str(tmp_path / "root/r/model.ckpt-1")).ok
    assert ckptd.verify(ckptd.latest_checkpoint(tmp_path / "root/r")).ok
