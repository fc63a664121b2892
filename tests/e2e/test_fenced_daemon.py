"""A daemon whose run another host has taken over, on a bucket of a real S3 server: it wakes up, and changes nothing."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import ckptd
from ckptd.cli import main
from ckptd.errors import CkptdError, ConflictError
from tests.fakes.waiting import eventually
from tests.services.faults import Hold
from tests.services.front import Front
from tests.services.s3 import S3Service
from tests.starts.daemons import Daemon

pytestmark = pytest.mark.every_server

WAIT_S = 120.0
LONG_AFTER_ITS_START_S = 7.0  # what is signed within five seconds may be a former daemon's last words
ONE_PART = {"w": np.arange(600, dtype=np.float32)}
MANY_PARTS = {"w": np.arange(10 << 20, dtype=np.float32)}
SLOWLY = ("--write-bytes-per-s", "5000000")


@contextmanager
def running(s3_root: str, directory: Path, *options: str) -> Iterator[tuple[Daemon, str]]:
    process = Daemon(s3_root, directory / "daemon.log", directory / "daemon.json", options)
    try:
        process.wait_until_ready()
        host, port = process.port()
        yield process, f"grpc://{host}:{port}"
    finally:
        if process.exit_code() is None:
            os.kill(process.pid, signal.SIGCONT)
        process.stop()


@contextmanager
def asleep(daemon: Daemon) -> Iterator[None]:
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(daemon.pid, signal.SIGCONT)


@contextmanager
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """What this process does meanwhile is done on another host, as far as anybody can see."""
    with monkeypatch.context() as patch:
        patch.setattr("socket.gethostname", lambda: "another-host")
        yield patch


@pytest.mark.parametrize(
    ("operation", "key"), [("CompleteMultipartUpload", ".data-"), ("PutObject", "2.index")], ids=["uploading", "sealed"]
)
def test_what_the_new_owner_writes_survives_the_old_ones_giving_up(
    s3_service: S3Service, s3_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, key: str
) -> None:
    """Both save the same step; the old owner gives its save up while the new one's is not committed yet."""
    with (
        running(s3_root, tmp_path, *SLOWLY) as (daemon, address),
        Front(s3_service.endpoint) as front,
        ckptd.Checkpointer(address, run="runs/a", timeout_s=WAIT_S) as trainer,
    ):
        trainer.save(1, ONE_PART).result(timeout=WAIT_S)
        lost = trainer.save(2, MANY_PARTS)
        deadline = time.monotonic() + WAIT_S
        while not s3_service.unfinished_uploads(s3_root.partition("ckptd-tests/")[2]):
            assert time.monotonic() < deadline
        held = Hold()
        with asleep(daemon), elsewhere(monkeypatch) as patch:
            patch.setenv("AWS_ENDPOINT_URL", front.endpoint)
            other = ckptd.Checkpointer(s3_root, run="runs/a")
            front.add(held, operation, key)
            saved = other.save(2, MANY_PARTS)
            held.wait_until_there()
        with elsewhere(monkeypatch), other:
            with pytest.raises(CkptdError, match="taken over"):
                lost.result(timeout=WAIT_S)
            held.release()
            assert saved.result(timeout=WAIT_S).step == 2
            assert other.latest().step == 2
    found = ckptd.verify(f"{s3_root}/runs/a")
    assert found.ok, found
    assert s3_service.unfinished_uploads(s3_root.partition("ckptd-tests/")[2]) == []


def test_the_fence_outlives_the_only_checkpoint(s3_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = f"{s3_root}/runs/a"
    with (
        running(s3_root, tmp_path) as (daemon, address),
        ckptd.Checkpointer(address, run="runs/a", timeout_s=WAIT_S) as trainer,
    ):
        trainer.save(1, ONE_PART).result(timeout=WAIT_S)
        with asleep(daemon), elsewhere(monkeypatch):
            assert main.run(["rm", f"{run}/model.ckpt-1", "--for-good", "--even-latest", "--take-over"]) == 0
            assert ckptd.latest_checkpoint(run) is None
        with pytest.raises(ConflictError, match="taken over") as caught:
            trainer.save(2, ONE_PART).result(timeout=WAIT_S)
        assert "another-host" in str(caught.value)
    with ckptd.Checkpointer(s3_root, run="runs/a") as lawful:
        assert lawful.save(3, ONE_PART).result(timeout=WAIT_S).step == 3
    assert ckptd.latest_checkpoint(run) == f"{run}/model.ckpt-3"


def becomes(says: Callable[[], object], wanted: object) -> None:
    eventually(lambda: says() == wanted, says)


def take_over(s3_root: str, monkeypatch: pytest.MonkeyPatch, step: int, run: str = "runs/a") -> None:
    with elsewhere(monkeypatch), ckptd.Checkpointer(s3_root, run=run) as other:
        other.save(step, ONE_PART).result(timeout=WAIT_S)


def test_a_daemon_whose_runs_were_taken_over_says_that_it_does_not_serve(
    s3_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It notices by itself, while nothing is saved."""
    with (
        running(s3_root, tmp_path) as (_, address),
        ckptd.Checkpointer(address, run="runs/a", timeout_s=WAIT_S) as trainer,
        ckptd.Checkpointer(address, run="runs/b", timeout_s=WAIT_S) as neighbour,
    ):
        trainer.save(1, ONE_PART).result(timeout=WAIT_S)
        neighbour.save(1, ONE_PART).result(timeout=WAIT_S)
        assert main.run(["health", address, "--run", "runs/a"]) == 0
        take_over(s3_root, monkeypatch, 2)
        becomes(lambda: main.run(["health", address, "--run", "runs/a"]), 6)
        assert main.run(["health", address, "--run", "runs/b"]) == 0
        assert main.run(["health", address]) == 0  # the neighbour's saves go on
        neighbour.save(2, ONE_PART).result(timeout=WAIT_S)
        take_over(s3_root, monkeypatch, 3, run="runs/b")
        becomes(lambda: main.run(["health", address]), 6)
        with pytest.raises(ConflictError, match="taken over"):
            trainer.save(3, ONE_PART).result(timeout=WAIT_S)


def test_a_daemon_ends_when_all_its_runs_were_taken_over_if_that_is_wanted(
    s3_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        running(s3_root, tmp_path, "--when-taken-over", "end") as (daemon, address),
        ckptd.Checkpointer(address, run="runs/a", timeout_s=WAIT_S) as trainer,
    ):
        trainer.save(1, ONE_PART).result(timeout=WAIT_S)
        take_over(s3_root, monkeypatch, 2)
        becomes(daemon.exit_code, 4)
        assert "taken over" in (tmp_path / "daemon.log").read_text()
    assert ckptd.latest_checkpoint(f"{s3_root}/runs/a") == f"{s3_root}/runs/a/model.ckpt-2"


def test_a_daemon_takes_its_runs_back_if_that_is_wanted(
    s3_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the other owner has saved is part of the run from then on, and that owner is fenced off."""
    audit = tmp_path / "audit.jsonl"
    with running(s3_root, tmp_path, "--when-taken-over", "take-back", "--audit-log", str(audit)) as (_, address):
        with ckptd.Checkpointer(address, run="runs/a", timeout_s=WAIT_S) as trainer:
            trainer.save(1, ONE_PART).result(timeout=WAIT_S)
            began_at = time.monotonic()
            while time.monotonic() < began_at + LONG_AFTER_ITS_START_S:
                trainer.save(1, ONE_PART, overwrite=True).result(timeout=WAIT_S)
            with elsewhere(monkeypatch):
                other = ckptd.Checkpointer(s3_root, run="runs/a")
                other.save(2, ONE_PART).result(timeout=WAIT_S)
            becomes(lambda: trainer.latest().step, 2)
            becomes(lambda: main.run(["health", address]), 0)
        with ckptd.Checkpointer(address, run="runs/a", timeout_s=WAIT_S) as restarted:
            assert restarted.save(3, ONE_PART).result(timeout=WAIT_S).step == 3
        with elsewhere(monkeypatch), other, pytest.raises(ConflictError, match="taken over"):
            other.save(4, ONE_PART).result(timeout=WAIT_S)
    told = [json.loads(line) for line in audit.read_text().splitlines()]
    assert [(each["run"], each["outcome"]) for each in told if each["event"] == "take-over"] == [
        ("runs/a", "lost to another owner"),
        ("runs/a", "taken back from another owner"),
    ]
    assert all(each["owner"].startswith("direct mode") for each in told if each["event"] == "take-over")
    assert ckptd.latest_checkpoint(f"{s3_root}/runs/a") == f"{s3_root}/runs/a/model.ckpt-3"
