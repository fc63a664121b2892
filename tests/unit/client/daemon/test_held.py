"""What is being read straight from a local disk is not deleted, whoever reads it and whoever would delete."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest

import ckptd
from ckptd import Checkpointer
from ckptd.errors import ConflictError, NotFoundError
from ckptd.storage.local.local_store import LocalStore
from tests.fakes.waiting import eventually
from tests.starts import prepared
from tests.unit.client.served import Daemon

BOUND_S = 60.0
W = {f"w{number}": np.full(1000, float(number)) for number in range(3)}

READS = """
import sys, ckptd
reader = ckptd.load_checkpoint(sys.argv[1])
reader.get_tensor("w0")
print("opened", flush=True)
sys.stdin.readline()
print([float(reader.get_tensor(name)[0]) for name in ("w1", "w2")], flush=True)
"""


@pytest.fixture(params=["direct", "daemon"])
def address(request, tmp_path):
    root = tmp_path / "root"
    daemon = Daemon(root, lease_s=1.0) if request.param == "daemon" else None
    yield daemon.address if daemon else str(root)
    if daemon:
        daemon.stop()


def opened(address, **options):
    return Checkpointer(address, run="r", **{"timeout_s": BOUND_S, "max_to_keep": 1, **options})


def save(ckpt, *steps, **options):
    for step in steps:
        ckpt.save(step, W, **options).result(BOUND_S)


def shards(directory, step):
    return sorted(path.name for path in directory.glob(f"model.ckpt-{step}.data-*"))


@contextmanager
def reading(prefix):
    """A process of its own that has opened a checkpoint; yields what lets it read on, and returns what it read."""
    reader = prepared.Popen(
        [sys.executable, "-c", READS, str(prefix)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert reader.stdout.readline() == "opened\n"
        yield lambda: reader.communicate("go on\n", timeout=BOUND_S)[0].strip()
    finally:
        reader.kill()
        reader.wait(BOUND_S)


def test_retention_waits_for_a_reader_in_another_process(address, tmp_path):
    directory = tmp_path / "root" / "r"
    with opened(address) as ckpt:
        save(ckpt, 1)
        with reading(directory / "model.ckpt-1") as go_on:
            save(ckpt, 2, 3)
            eventually(lambda: not shards(directory, 2))  # retention has passed
            assert [one.step for one in ckpt.checkpoints()] == [3]
            assert go_on() == "[1.0, 2.0]"
        save(ckpt, 4)
        eventually(lambda: not list(directory.glob("model.ckpt-[13]*")))


def test_a_reader_that_is_killed_holds_nothing(address, tmp_path):
    directory = tmp_path / "root" / "r"
    with opened(address) as ckpt:
        save(ckpt, 1)
        with reading(directory / "model.ckpt-1"):
            pass
        save(ckpt, 2)
        eventually(lambda: not list(directory.glob("model.ckpt-1*")))


def test_a_deletion_for_good_is_refused_and_another_leaves_the_data(address, tmp_path):
    directory = tmp_path / "root" / "r"
    with opened(address, max_to_keep=5) as ckpt:
        save(ckpt, 1, 2)
        reader = ckpt.reader(1)
        with pytest.raises(ConflictError, match="being read"):
            ckpt.delete(1, for_good=True)
        assert [one.step for one in ckpt.checkpoints()] == [1, 2]
        ckpt.delete(1)
        assert reader.get_tensor("w2")[0] == 2
        ckpt.undelete(1)
        reader.close()
        ckpt.delete(1, for_good=True)
        assert not shards(directory, 1)
        with pytest.raises(NotFoundError):
            reader.get_tensor("w1")


def test_the_sweep_of_what_was_deleted_waits_for_readers(tmp_path):
    daemon = Daemon(tmp_path / "root", lease_s=1.0, undo_s=0.2)
    directory = tmp_path / "root" / "r"
    try:
        with opened(daemon.address, max_to_keep=5) as ckpt:
            save(ckpt, 1, 2)
            with ckptd.load_checkpoint(directory / "model.ckpt-1") as reader:
                ckpt.delete(1)
                save(ckpt, 3)  # its retention sweeps
                assert daemon.coordinator.settle(BOUND_S)
                assert reader.get_tensor("w2")[0] == 2
            eventually(lambda: not shards(directory, 1))
    finally:
        daemon.stop()


def test_overwriting_leaves_the_data_to_who_reads_it(address, tmp_path):
    directory = tmp_path / "root" / "r"
    with opened(address, max_to_keep=5) as ckpt:
        save(ckpt, 1)
        before = shards(directory, 1)
        with ckpt.reader(1) as reader:
            save(ckpt, 1, 2, overwrite=True)
            assert reader.get_tensor("w1")[0] == 1
            assert set(before) < set(shards(directory, 1))
        save(ckpt, 3)
        eventually(lambda: not set(before) & set(shards(directory, 1)))
        assert ckpt.restore(1)["w1"][0] == 1


def test_commands_refuse_what_is_being_read(tmp_path):
    with opened(str(tmp_path)) as ckpt:
        save(ckpt, 1, 2, write_state=False)
    ckptd.save_checkpoint(tmp_path / "foreign-1", W)
    ours, foreign = tmp_path / "r" / "model.ckpt-1", tmp_path / "foreign-1"
    commands = [
        ["rm", ours],
        ["rm", "--foreign", foreign],
        ["cp", "--force", tmp_path / "r" / "model.ckpt-2", foreign],
    ]
    held = [ckptd.load_checkpoint(prefix) for prefix in (ours, foreign)]
    for command in commands:
        done = prepared.run(
            [sys.executable, "-m", "ckptd", *map(str, command)], capture_output=True, text=True, timeout=BOUND_S
        )
        assert (done.returncode, "being read" in done.stderr) == (4, True), done.stderr
    assert [reader.get_tensor("w2")[0] for reader in held] == [2, 2]
    with pytest.raises(ConflictError, match="being read"):
        ckptd.remove_checkpoint(foreign)
    del held
    ckptd.remove_checkpoint(foreign)
    assert not ckptd.checkpoint_exists(foreign)


def test_restoring_and_verifying_hold_nothing_afterwards(address):
    with opened(address) as ckpt:
        save(ckpt, 1, 2)
        ckpt.restore()
        ckpt.restore(slices={"w1": ((5,), (10,))}, names=["w1"])
        assert ckptd.verify(ckpt.latest().prefix).ok
        ckpt.delete(2, for_good=True, even_latest=True)


def test_a_forked_child_neither_ends_the_hold_of_its_parent_nor_keeps_it(tmp_path):
    prefix = tmp_path / "m-1"
    ckptd.save_checkpoint(prefix, W)
    reader = ckptd.load_checkpoint(prefix)
    gate_out, gate_in = os.pipe()
    child = os.fork()
    if not child:
        reader.close()
        os.read(gate_out, 1)
        os._exit(0)
    try:
        other = os.fork()
        if not other:
            del reader
            os._exit(0)
        os.waitpid(other, 0)
        with pytest.raises(ConflictError, match="being read"):
            ckptd.remove_checkpoint(prefix)
        assert reader.get_tensor("w1")[0] == 1
        reader.close()
        ckptd.remove_checkpoint(prefix)
    finally:
        os.write(gate_in, b"x")
        os.waitpid(child, 0)
        os.close(gate_in)
        os.close(gate_out)


def test_where_there_are_no_locks_everything_goes_on_without(tmp_path, monkeypatch):
    flock = fcntl.flock

    def no_shared_locks(file, operation):
        if operation & fcntl.LOCK_SH:
            raise OSError(37, "No locks available")
        return flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", no_shared_locks)
    prefix = tmp_path / "m-1"
    ckptd.save_checkpoint(prefix, W)
    reader = ckptd.load_checkpoint(prefix)
    assert reader.get_tensor("w1")[0] == 1
    ckptd.remove_checkpoint(prefix)
    assert LocalStore(str(tmp_path)).hold("m-1.index") is None


def test_whoever_may_only_read_can_hold(tmp_path):
    """The lock needs no more than an open file; as root nothing is refused, so the mode is what is looked at."""
    prefix = tmp_path / "m-1"
    ckptd.save_checkpoint(prefix, W)
    for path in tmp_path.glob("m-1*"):
        path.chmod(0o444)
    with ckptd.load_checkpoint(prefix), pytest.raises(ConflictError, match="being read"):
        ckptd.remove_checkpoint(prefix)
    ckptd.remove_checkpoint(prefix)


def test_a_saver_leaves_the_data_that_it_writes_over_to_who_reads_it(tmp_path):
    value = [1.0]
    saver = ckptd.Saver({"w": (lambda: np.full(1000, value[0]), lambda array: None)}, max_to_keep=1)
    prefix = tmp_path / "m"
    saver.save(prefix)
    with ckptd.load_checkpoint(prefix) as reader:
        for number in (2.0, 3.0, 4.0):
            value[0] = number
            saver.save(prefix)
            assert (reader.get_tensor("w")[0], ckptd.load_variable(prefix, "w")[0]) == (1, number)
    value[0] = 5.0
    saver.save(prefix)
    assert sorted(path.name for path in tmp_path.glob("m.*")) == ["m.data-00000-of-00001", "m.index"]
    assert ckptd.load_variable(prefix, "w")[0] == 5
    with ckptd.load_checkpoint(prefix):
        saver.save(tmp_path / "n")
        assert ckptd.checkpoint_exists(prefix)
    saver.save(tmp_path / "o")
    assert not ckptd.checkpoint_exists(prefix)
