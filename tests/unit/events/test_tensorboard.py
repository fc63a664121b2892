"""What `TensorBoardWriter` writes, read by TensorBoard's own reader."""

from __future__ import annotations

import struct

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import ckptd
from ckptd.engine.checkpoint import Checkpoint
from ckptd.errors import InvalidRequestError, SessionAbortedError
from ckptd.events import Failed, Restored, Saved, Slow, TensorBoardWriter
from ckptd.events.event_file import record
from ckptd.format import crc32c

WHOSE = {"run": "runs/a", "rank": 0, "world_size": 2, "at": 1_700_000_000.5}
CHECKPOINT = Checkpoint("/c/runs/a/model.ckpt-7", 7, 4_000_000, 1, 0.0)
STALL = {"waiting": 0.0, "preparing": 0.25, "copying": 0.5, "declaring": 0.0}


def read(logdir):
    reader = EventAccumulator(str(logdir))
    reader.Reload()
    return {tag: [(each.step, each.value) for each in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def test_tensorboard_reads_each_number_at_its_step(tmp_path):
    writer = TensorBoardWriter(tmp_path)
    writer(Saved(**WHOSE, step=7, checkpoint=CHECKPOINT, stall=STALL, durable_s=2.0))
    writer(Failed(**WHOSE, step=8, error=SessionAbortedError("rank 1 is gone"), stall=STALL, after_s=3.0))
    writer(Slow(**WHOSE, step=9, waited_s=30.0, waiting_for="rank 1"))
    writer(Restored(**WHOSE, step=7, checkpoint=CHECKPOINT, size_bytes=4096, seconds=0.5))
    assert read(tmp_path) == {
        "ckptd/stall_seconds": [(7, 0.75), (8, 0.75)],
        "ckptd/stall_waiting_seconds": [(7, 0.0), (8, 0.0)],
        "ckptd/stall_preparing_seconds": [(7, 0.25), (8, 0.25)],
        "ckptd/stall_copying_seconds": [(7, 0.5), (8, 0.5)],
        "ckptd/stall_declaring_seconds": [(7, 0.0), (8, 0.0)],
        "ckptd/durable_seconds": [(7, 2.0)],
        "ckptd/bytes": [(7, 4_000_000.0)],
        "ckptd/bytes_per_second": [(7, 2_000_000.0)],
        "ckptd/failed": [(7, 0.0), (8, 1.0)],
        "ckptd/slow_seconds": [(9, 30.0)],
        "ckptd/restore_seconds": [(7, 0.5)],
        "ckptd/restored_bytes": [(7, 4096.0)],
    }


def test_a_record_is_as_tensorflows_writer_frames_it():
    data = record(b"abc")
    assert data[:8] == struct.pack("<Q", 3)
    assert crc32c.unmask(int.from_bytes(data[8:12], "little")) == crc32c.crc32c(data[:8])
    assert data[12:15] == b"abc"
    assert crc32c.unmask(int.from_bytes(data[15:], "little")) == crc32c.crc32c(b"abc")


def test_ranks_but_the_first_write_nothing(tmp_path):
    writer = TensorBoardWriter(tmp_path / "logs")
    writer(Saved(**WHOSE | {"rank": 1}, step=7, checkpoint=CHECKPOINT, durable_s=2.0))
    assert not (tmp_path / "logs").exists()


def test_a_writer_goes_on_in_another_file_after_close(tmp_path):
    writer = TensorBoardWriter(tmp_path)
    for step in (1, 2):
        writer(Slow(**WHOSE, step=step, waited_s=30.0, waiting_for="rank 1"))
        writer.close()
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 2


@pytest.mark.parametrize("logdir", ["", "s3://bucket/logs"])
def test_what_is_no_directory_of_this_host_is_refused(logdir):
    with pytest.raises(InvalidRequestError, match="logdir"):
        TensorBoardWriter(logdir)


def test_the_environment_names_a_directory_and_no_code_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("CKPTD_TENSORBOARD", str(tmp_path / "logs"))
    for run in ("a", "b"):  # one file a process
        with ckptd.Checkpointer(tmp_path / "root", run) as checkpointer:
            checkpointer.save(3, {"w": [1.0]})
    assert len(list((tmp_path / "logs").iterdir())) == 1
    assert read(tmp_path / "logs")["ckptd/failed"] == [(3, 0.0), (3, 0.0)]
