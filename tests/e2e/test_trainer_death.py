"""From the moment `save` returns, the trainer may die: the save commits, and a restart goes on from it."""

from __future__ import annotations

import signal
import subprocess
import sys

import numpy as np
import pytest

import ckptd
from ckptd.demo.processes import child_environment
from tests import seams
from tests.starts import prepared
from tests.starts.daemons import Daemon

TIMEOUT_S = 60.0
COUNT = 3_000_000
WRITE_BYTES_PER_S = 4_000_000  # a save takes seconds: there is time to kill whoever has begun it

TRAINER = """
import logging, sys, threading
import numpy as np, ckptd
told = []
listening = logging.Handler()
listening.emit = lambda record: told.append(record.getMessage())
logging.getLogger("ckptd.client").addHandler(listening)
logging.getLogger("ckptd.client").setLevel(logging.INFO)
address, rank, world_size, dies = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
ckpt = ckptd.Checkpointer(address, "r", rank=rank, world_size=world_size, timeout_s=60)
part = np.full({count}, rank + 1, np.float32)
arrays = {{"w": ckptd.Slice(part, (world_size * {count},), (rank * {count},)), "step": np.int64(7)}}
if dies == 'copying':
    def stuck(source, to):
        print("copying", flush=True)
        threading.Event().wait(600)
    {put_stuck}
pending = ckpt.save(7, arrays)
print("returned", "; ".join(line for line in told if "bytes are sent" in line), flush=True)
try:
    pending.result(60)
    print("saved", flush=True)
except ckptd.CkptdError as error:
    print(type(error).__name__, str(error).replace(chr(10), " "), flush=True)
threading.Event().wait(600)
"""


@pytest.fixture
def daemon(tmp_path, monkeypatch):
    monkeypatch.setenv("CKPTD_WRITE_BYTES_PER_S", str(WRITE_BYTES_PER_S))
    monkeypatch.setenv("CKPTD_LEASE_S", "1")
    (tmp_path / "root").mkdir()
    daemon = Daemon(tmp_path / "root", tmp_path / "daemon.log", tmp_path / "daemon.json")
    daemon.wait_until_ready()
    yield daemon
    daemon.stop()


@pytest.fixture
def train(daemon):
    started = []

    def train(rank=0, world_size=1, dies="never"):
        host, port = daemon.port()
        process = prepared.Popen(
            [
                sys.executable,
                "-c",
                TRAINER.format(count=COUNT, put_stuck=seams.COPY_PIECE.in_program("stuck")),
                f"grpc://{host}:{port}",
                *map(str, (rank, world_size, dies)),
            ],
            stdout=subprocess.PIPE,
            text=True,
            env=child_environment(),
        )
        started.append(process)
        return process

    yield train
    for process in started:
        process.kill()
        process.wait(TIMEOUT_S)
        process.stdout.close()


def kill(*processes):
    for process in processes:
        process.send_signal(signal.SIGKILL)
    for process in processes:
        process.wait(TIMEOUT_S)


def checkpointer(daemon, **options):
    host, port = daemon.port()
    return ckptd.Checkpointer(f"grpc://{host}:{port}", "r", rank=0, world_size=1, timeout_s=TIMEOUT_S, **options)


def test_a_save_that_has_returned_commits_without_its_trainers(daemon, train, tmp_path):
    ranks = [train(rank, 2) for rank in range(2)]
    for process in ranks:
        assert process.stdout.readline() == "returned \n"
    kill(*ranks)
    assert not list((tmp_path / "root/r").glob("*.index")), "it was saved before anybody was killed"
    assert [save.save.step for run in daemon.status().runs for save in run.saves] == [7]
    with checkpointer(daemon) as restarted:
        # Who asks now is told of it once it is complete.
        assert restarted.latest().step == 7
        restored = restarted.restore()
    np.testing.assert_array_equal(restored["w"], np.repeat(np.float32([1, 2]), COUNT))
    assert ckptd.verify(tmp_path / "root/r").ok


def test_a_new_job_does_not_end_what_the_old_one_has_handed_over(daemon, train, tmp_path):
    old = train()
    assert old.stdout.readline() == "returned \n"
    kill(old)
    with checkpointer(daemon) as new:
        new.save(8, {"w": np.zeros(3)}).result(TIMEOUT_S)
        assert [each.step for each in new.checkpoints()] == [7, 8]
    assert ckptd.verify(tmp_path / "root/r").ok


def test_who_dies_while_its_arrays_are_copied_ends_that_save_and_is_named(daemon, train, tmp_path):
    other, dying = train(0, 2), train(1, 2, "copying")
    assert dying.stdout.readline() == "copying\n"
    assert other.stdout.readline() == "returned \n"
    kill(dying)
    answer = other.stdout.readline()
    assert answer.startswith("SessionAbortedError")
    assert "rank 1" in answer
    assert not list((tmp_path / "root/r").glob("model.ckpt*"))
