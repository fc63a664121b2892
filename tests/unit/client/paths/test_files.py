"""What a `Checkpointer` offers to programs that open files themselves; and variants, which are TensorFlow's alone."""

from __future__ import annotations

import numpy as np
import pytest

import ckptd
from ckptd.client.capture.arrays import Variants
from ckptd.client.paths.files import files_of
from ckptd.storage.base import Objects
from ckptd.storage.locations import open_store
from tests.unit.client.served import Daemon

ARRAYS = {"w": np.arange(12.0).reshape(3, 4), "names": np.array([b"a", b"bc"], object)}


@pytest.fixture(params=["direct", "daemon"])
def opened(request, tmp_path):
    root = tmp_path / "root"
    if request.param == "direct":
        with ckptd.Checkpointer(root, "runs/a") as checkpointer:
            yield checkpointer, root
        return
    daemon = Daemon(root)
    try:
        with ckptd.Checkpointer(daemon.address, "runs/a") as checkpointer:
            yield checkpointer, root
    finally:
        daemon.stop()


def test_files_of_this_host_are_opened_where_they_are(opened, tmp_path):
    checkpointer, root = opened
    assert checkpointer.state() is None
    assert checkpointer.prefix_of(7) == str(root / "runs/a/model.ckpt-7")
    assert checkpointer.prefix_of(None) == str(root / "runs/a/model.ckpt")
    with pytest.raises(ckptd.NotFoundError):
        checkpointer.files(copy_into=tmp_path)
    done = checkpointer.save(7, ARRAYS).result()
    copies = tmp_path / "copies"
    assert checkpointer.files(copy_into=copies) == checkpointer.files(7, copy_into=copies) == done.prefix
    assert not copies.exists()
    assert checkpointer.state().model_checkpoint_path == "model.ckpt-7"


def test_files_of_elsewhere_are_copied_and_checked(tmp_path):
    with ckptd.Checkpointer("memory://elsewhere", "runs/a") as checkpointer:
        checkpointer.save(7, ARRAYS).result()
        prefix = checkpointer.files(copy_into=tmp_path / "copies")
    assert prefix == str(tmp_path / "copies" / "model.ckpt-7")
    assert ckptd.verify(prefix).ok
    assert np.array_equal(ckptd.load_variable(prefix, "w"), ARRAYS["w"])

    store = open_store("memory://elsewhere")
    key = "runs/a/model.ckpt-7"
    damaged = bytearray(store.get(f"{key}.data-00000-of-00001"))
    damaged[3] ^= 1
    store.replace(f"{key}.data-00000-of-00001", bytes(damaged))
    objects: Objects = store
    with pytest.raises(ckptd.CorruptionError):
        files_of(objects, key, str(tmp_path / "more"))


def test_what_is_no_state_file_is_an_error_as_for_functions_of_paths(tmp_path):
    with ckptd.Checkpointer(tmp_path, "runs/a") as checkpointer:
        (tmp_path / "runs/a/checkpoint").mkdir(parents=True)
        for look in (checkpointer.state, lambda: ckptd.get_checkpoint_state(tmp_path / "runs/a")):
            with pytest.raises(ckptd.CorruptionError, match="no file that can be read"):
                look()


MESSAGES = np.array([[b"one", b""], [b"three" * 100, b"4"]], object)


def test_variants_are_saved_and_read_as_the_messages_that_they_are(opened):
    checkpointer, _ = opened
    for step in (1, 2):
        arrays = {"it": Variants(MESSAGES[:step]), "none": Variants(MESSAGES[:0]), **ARRAYS}
        done = checkpointer.save(step, arrays).result()
        assert ckptd.verify(done.prefix).ok
        read = checkpointer.restore(step)
        assert np.array_equal(read["it"], MESSAGES[:step])
        assert read["none"].shape == (0, 2)
        assert b"it (DT_VARIANT)" in ckptd.load_checkpoint(done.prefix).debug_string()


def test_a_part_of_variants_is_refused(opened):
    checkpointer, _ = opened
    part = ckptd.Slice(Variants(MESSAGES[:1]), full_shape=(2, 2), start=(0, 0))
    with pytest.raises(ckptd.InvalidRequestError, match="'it' has a size that does not fit"):
        checkpointer.save(1, {"it": part}).result()


def test_ranks_bring_the_same_variants_once(tmp_path):
    daemon = Daemon(tmp_path / "root")
    try:
        members = [ckptd.Checkpointer(daemon.address, "runs/a", rank=rank, world_size=2) for rank in range(2)]
        saves = [member.save(1, {"it": Variants(MESSAGES)}) for member in members]
        prefixes = {save.result(60).prefix for save in saves}
        assert ckptd.verify(prefixes.pop()).num_tensors == 1
        for member in members:
            member.close()
    finally:
        daemon.stop()
