"""Damage in the latest checkpoint: it is confirmed, quarantined and passed by; and what is no damage never is."""

import json
import os
import sys

import numpy as np
import pytest

import ckptd
from ckptd.errors import CorruptionError, NotFoundError, StorageFullError, UnavailableError
from tests import seams
from tests.starts import prepared


@pytest.fixture
def root(tmp_path):
    with ckptd.Checkpointer(tmp_path, "a") as checkpointer:
        for step in (1, 2, 3):
            checkpointer.save(step, {"w": np.full(1000, step), "v": np.full(3, -step)})
    return tmp_path


@pytest.fixture
def run_ckptd():
    def run(*arguments):
        return prepared.run(
            [sys.executable, "-m", "ckptd", *arguments], capture_output=True, text=True, timeout=120, check=False
        )

    return run


def shard(root, step):
    return root / "a" / f"model.ckpt-{step}.data-00000-of-00001"


def flip(path, at=100):
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


def marks(root):
    found = (json.loads(path.read_text()) for path in (root / "a/.ckptd").glob("*.json"))
    return {each["step"]: each["quarantine"] for each in found if each.get("quarantine")}


DAMAGES = {
    "a flipped bit": lambda root: flip(shard(root, 3)),
    "a missing shard": lambda root: shard(root, 3).unlink(),
    "a cut shard": lambda root: os.truncate(shard(root, 3), 100),
    "a damaged index": lambda root: flip(root / "a/model.ckpt-3.index", 10),
}


@pytest.mark.parametrize("saves_first", [False, True], ids=["reader", "owner"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_the_newest_that_verifies_is_restored_and_said(root, damage, saves_first, capfd, caplog):
    with ckptd.Checkpointer(root, "a") as checkpointer:
        if saves_first:
            checkpointer.pin(1)  # takes the run
        damage(root)
        into = {"w": np.zeros(1000, np.int64), "v": np.zeros(3, np.int64)}
        arrays = checkpointer.restore(into=into)
        assert arrays["w"] is into["w"]
        assert set(into["w"]) == {2}
        assert set(into["v"]) == {-2}
        assert checkpointer.restored.step == 2
        assert checkpointer.latest().step == 2
        assert [each.step for each in checkpointer.checkpoints()] == [1, 2]
    said = capfd.readouterr().err
    assert "step 2" in said or "model.ckpt-2" in caplog.text  # a reader that finds no shard passes it by at once


def test_a_quarantine_leaves_the_files_and_ends_the_list(root, capfd, caplog):
    flip(shard(root, 3))
    before = sorted(path.name for path in (root / "a").iterdir())
    with ckptd.Checkpointer(root, "a") as checkpointer:
        checkpointer.restore()
    said = capfd.readouterr().err
    assert "step 3 of a is damaged, and step 2 is restored instead" in said
    assert "tensor 'w'" in said
    assert sorted(path.name for path in (root / "a").iterdir()) == before
    assert list(marks(root)) == [3]
    assert "in quarantine" in caplog.text
    assert ckptd.get_checkpoint_state(root / "a").model_checkpoint_path.endswith("model.ckpt-2")
    assert not ckptd.verify(root / "a/model.ckpt-3").ok  # still there to look at


def test_training_goes_on_over_a_quarantined_step(root):
    flip(shard(root, 3))
    with ckptd.Checkpointer(root, "a", max_to_keep=2) as checkpointer:
        checkpointer.restore()
        checkpointer.save(3, {"w": np.full(4, 33)}).result()
        assert checkpointer.restore()["w"].tolist() == [33] * 4
    assert ckptd.verify(root / "a/model.ckpt-3").ok
    assert marks(root) == {}


def test_retention_neither_counts_nor_deletes_what_is_in_quarantine(root):
    flip(shard(root, 3))
    with ckptd.Checkpointer(root, "a", max_to_keep=2) as checkpointer:
        checkpointer.restore()
        for step in (4, 5, 6):
            checkpointer.save(step, {"w": np.zeros(3)})
    with ckptd.Checkpointer(root, "a") as checkpointer:
        assert [each.step for each in checkpointer.checkpoints()] == [5, 6]
    assert shard(root, 3).exists()
    assert list(marks(root)) == [3]


def test_a_step_that_is_named_and_fallback_false_never_go_back(root):
    flip(shard(root, 3))
    into = {"w": np.zeros(1000, np.int64)}
    with ckptd.Checkpointer(root, "a") as checkpointer:
        for arguments in ({"step": 3}, {"fallback": False}):
            with pytest.raises(CorruptionError) as caught:
                checkpointer.restore(into=into, names=["w"], **arguments)
            assert any("into" in note for note in caught.value.__notes__)
        assert checkpointer.latest().step == 3
    assert marks(root) == {}


def test_a_program_never_mixes_steps(root):
    flip(shard(root, 3), at=8005)  # in the second of two tensors
    names = sorted(
        ["v", "w"], key=lambda name: ckptd.load_checkpoint(root / "a").bundle.index.tensor(name).pieces[0].offset
    )
    with ckptd.Checkpointer(root, "a") as checkpointer:
        flip(shard(root, 3), at=8005)
        flip(shard(root, 3), at=os.path.getsize(shard(root, 3)) - 1)
        checkpointer.restore(names=names[:1])
        assert checkpointer.restored.step == 3
        with pytest.raises(CorruptionError) as caught:
            checkpointer.restore(names=names[1:])
        assert any("start the program again" in note for note in caught.value.__notes__)
    with ckptd.Checkpointer(root, "a") as checkpointer:
        checkpointer.restore()
        assert checkpointer.restored.step == 2


def test_who_does_not_own_the_run_goes_back_and_quarantines_nothing(root, capfd):
    with ckptd.Checkpointer(root, "a") as owner, ckptd.Checkpointer(root, "a") as reader:
        owner.pin(1)
        flip(shard(root, 3))
        assert set(reader.restore(names=["w"])["w"]) == {2}
        assert set(reader.restore(names=["v"])["v"]) == {-2}
        assert marks(root) == {}
        assert owner.latest().step == 3
    assert "step 2 is restored instead" in capfd.readouterr().err


def test_trouble_on_the_way_is_no_damage(root, monkeypatch):
    def fails(self, key, offset, *into):
        raise UnavailableError("the disk reports an input/output error", key=key)

    seams.READ_FROM_DISK.put(monkeypatch, fails)
    with ckptd.Checkpointer(root, "a") as checkpointer, pytest.raises(UnavailableError):
        checkpointer.restore()
    monkeypatch.undo()
    assert marks(root) == {}
    with ckptd.Checkpointer(root, "a") as checkpointer:
        assert set(checkpointer.restore()["w"]) == {3}


def test_a_reader_whose_own_memory_lies_quarantines_nothing(root, monkeypatch):
    read, lies = seams.READ_FROM_DISK.value, iter([True])

    def lying(self, key, offset, *into):
        read(self, key, offset, *into)
        if next(lies, False):
            into[0][0] ^= 1

    seams.READ_FROM_DISK.put(monkeypatch, lying)
    with ckptd.Checkpointer(root, "a") as checkpointer:
        assert set(checkpointer.restore()["w"]) == {3}  # read once more
        assert checkpointer.restored.step == 3
    assert marks(root) == {}


def test_when_none_is_whole_that_is_an_error_and_no_beginning_anew(root):
    for step in (1, 2, 3):
        flip(shard(root, step))
    for _ in range(2):
        with ckptd.Checkpointer(root, "a") as checkpointer, pytest.raises(CorruptionError):
            checkpointer.restore()
    with ckptd.Checkpointer(root, "a") as checkpointer, pytest.raises(CorruptionError, match="in quarantine"):
        checkpointer.latest()
    assert sorted(marks(root)) == [1, 2, 3]
    assert (root / "a/checkpoint").exists()


@pytest.mark.parametrize("arguments", [{}, {"step": 3}, {"fallback": False}, {"fallback": "together"}], ids=str)
def test_an_error_says_that_arrays_may_be_overwritten_however_it_ends(root, arguments):
    for step in (1, 2, 3):
        flip(shard(root, step))
    into = {"w": np.zeros(1000, np.int64)}
    with (
        ckptd.Checkpointer(root, "a") as checkpointer,
        pytest.raises(CorruptionError) as told,
    ):
        checkpointer.restore(names=["w"], into=into, **arguments)
    assert told.value.__notes__.count("the arrays given by `into` may be partly overwritten") == 1


def test_a_missing_tensor_is_no_damage(root):
    with ckptd.Checkpointer(root, "a") as checkpointer, pytest.raises(NotFoundError):
        checkpointer.restore(names=["absent"])
    assert marks(root) == {}


def test_repair_takes_back_what_is_whole_again(root, run_ckptd):
    flip(shard(root, 3))
    with ckptd.Checkpointer(root, "a") as checkpointer:
        checkpointer.restore()
    listed = run_ckptd("ls", str(root / "a"))
    assert "QUARANTINED" in listed.stdout
    assert "tensor 'w'" in listed.stdout
    run_ckptd("repair", str(root / "a"))
    assert list(marks(root)) == [3]  # it is read again, and is as it was
    flip(shard(root, 3))
    assert "quarantine no more" in run_ckptd("repair", str(root / "a")).stdout
    assert marks(root) == {}
    with ckptd.Checkpointer(root, "a") as checkpointer:
        assert [each.step for each in checkpointer.checkpoints()] == [1, 2, 3]
        assert set(checkpointer.restore()["w"]) == {3}


def test_what_is_in_quarantine_can_be_deleted(root):
    flip(shard(root, 3))
    with ckptd.Checkpointer(root, "a") as checkpointer:
        checkpointer.restore()
        checkpointer.delete(3, for_good=True)
        assert checkpointer.latest().step == 2
    assert not shard(root, 3).exists()
    assert marks(root) == {}


def test_who_follows_the_directory_hears_that_the_newest_is_not_to_be_used(root):
    news = ckptd.follow(root, "a", timeout_s=60, poll_s=0.05)
    assert next(news).step == 3
    flip(shard(root, 3))
    with ckptd.Checkpointer(root, "a") as checkpointer:
        checkpointer.restore()
    told = next(news)
    assert told.step == 2
    assert "model.ckpt-3" in told.rolled_back
    news.close()


def test_a_reader_raises_and_the_next_start_goes_on_from_what_is_whole(root):
    flip(shard(root, 3))
    with ckptd.Checkpointer(root, "a") as checkpointer, pytest.raises(CorruptionError) as caught:
        checkpointer.reader()["w"]
    assert any("in quarantine now" in note for note in caught.value.__notes__)
    with ckptd.Checkpointer(root, "a") as checkpointer:
        assert set(checkpointer.reader()["w"]) == {2}


def test_an_adapter_goes_on_from_what_is_whole(tmp_path):
    import torch

    import ckptd.torch

    for step in (1, 2):
        ckptd.torch.save({"w": torch.full((1000,), float(step))}, tmp_path / "t", step).result()
    ckptd.torch.close_all()
    flip(next((tmp_path / "t").glob("*-2.data-*")))
    with ckptd.Checkpointer(tmp_path, "t") as checkpointer, pytest.raises(CorruptionError):
        ckptd.torch.load(checkpointer)
    with ckptd.Checkpointer(tmp_path, "t") as checkpointer:
        assert ckptd.torch.load(checkpointer)["w"][0] == 1
    assert ckptd.torch.load(tmp_path / "t")["w"][0] == 1


def test_where_nothing_can_be_noted_the_older_one_is_restored_all_the_same(root, monkeypatch, capfd):
    flip(shard(root, 3))

    def full(store, key, data, **how):
        raise StorageFullError("the disk is full", key=key)

    with ckptd.Checkpointer(root, "a") as checkpointer:
        checkpointer.pin(1)
        for part in (root / "a/.ckptd/trash").glob("reserve-*"):  # others have taken that, too
            part.unlink()
        seams.REPLACE_ON_DISK.put(monkeypatch, full)
        assert set(checkpointer.restore()["w"]) == {2}
        assert set(checkpointer.restore(names=["v"])["v"]) == {-2}
        monkeypatch.undo()
    assert "step 2 is restored instead" in capfd.readouterr().err
    assert marks(root) == {}


def test_a_part_of_a_tensor_is_checked_where_a_good_part_of_it_is_wanted(root):
    with ckptd.Checkpointer(root, "b") as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, {"w": np.full(1 << 20, step)}).result()
        flip(root / "b" / "model.ckpt-2.data-00000-of-00001")
        a_quarter = {"w": ((0,), (1 << 18,))}
        assert set(checkpointer.restore(slices=a_quarter)["w"]) == {1}
        assert checkpointer.restored.step == 1


def test_a_part_that_a_reader_fills_arrays_with_is_checked(root):
    flip(shard(root, 3))
    with ckptd.load_checkpoint(root / "a") as reader, pytest.raises(CorruptionError, match="checksum"):
        reader.fill([("w", (0,), np.empty(500, np.int64))])
