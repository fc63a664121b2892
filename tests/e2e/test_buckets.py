"""Everything that works on a directory, on a bucket of a real S3 server: daemon, direct mode, commands, TensorFlow."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import ckptd
from ckptd.cli import main
from ckptd.demo.processes import child_environment
from ckptd.errors import ConflictError
from tests.fakes import schemas
from tests.fakes.waiting import eventually
from tests.services.exchanges import Exchange
from tests.services.front import Front
from tests.services.lying import ALL_CONDITIONS, LyingStore
from tests.services.s3 import S3Service
from tests.starts import prepared
from tests.starts.daemons import Daemon

pytestmark = pytest.mark.every_server


def save(url: str, *steps: int, run: str = "runs/a", **options: object) -> None:
    with ckptd.Checkpointer(url, run=run, **options) as checkpointer:  # type: ignore[arg-type]
        for step in steps:
            checkpointer.save(step, tensors(step)).result(timeout=120)


def tensors(step: int) -> dict[str, np.ndarray]:
    return {"w": np.arange(600, dtype=np.float32).reshape(20, 30) + step, "names": np.array([b"a", b"bc"], object)}


def as_json(capsys: pytest.CaptureFixture[str], command: str, *arguments: object, code: int = 0) -> dict:
    capsys.readouterr()
    assert main.run([command, *map(str, arguments), "--json"]) == code
    return schemas.check(command, json.loads(capsys.readouterr().out))


def says(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    capsys.readouterr()
    assert main.run(list(map(str, arguments))) == code
    captured = capsys.readouterr()
    return captured.out + captured.err


@pytest.fixture
def daemon(s3_root: str, tmp_path: Path) -> Iterator[Daemon]:
    process = Daemon(s3_root, tmp_path / "daemon.log", tmp_path / "daemon.json")
    try:
        process.wait_until_ready()
        yield process
    finally:
        code = process.stop()
    assert code == 0, (tmp_path / "daemon.log").read_text()


def address_of(daemon: Daemon) -> str:
    host, port = daemon.port()
    return f"grpc://{host}:{port}"


def test_four_ranks_save_through_a_daemon_and_read_straight_from_the_bucket(daemon: Daemon, s3_root: str) -> None:
    whole = np.arange(4000, dtype=np.float64).reshape(400, 10)

    def rank(number: int) -> None:
        part = ckptd.Slice(whole[number * 100 :][:100], full_shape=whole.shape, start=(number * 100, 0))
        with ckptd.Checkpointer(address_of(daemon), run="runs/b", rank=number, world_size=4) as checkpointer:
            for step in (1, 2):
                done.append(
                    checkpointer.save(step, {"w": part, f"own{number}": np.full(3, number)}).result(timeout=120)
                )
            [restored[number]] = checkpointer.restore(names=["w"]).values()

    done: list[ckptd.Checkpoint] = []
    restored: dict[int, np.ndarray] = {}
    threads = [threading.Thread(target=rank, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert {one.prefix for one in done} == {f"{s3_root}/runs/b/model.ckpt-{step}" for step in (1, 2)}
    assert all(one.durability.value == "object_store" for one in done)
    for number in range(4):
        np.testing.assert_array_equal(restored[number], whole)
    assert ckptd.verify(f"{s3_root}/runs/b").ok


def test_what_a_clients_environment_cannot_reach_comes_through_the_daemon(
    daemon: Daemon, s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = address_of(daemon)
    save(address, 1)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not the right one")
    with ckptd.Checkpointer(address, run="runs/a") as checkpointer:
        np.testing.assert_array_equal(checkpointer.restore()["w"], tensors(1)["w"])


def test_every_command_works_on_a_bucket(
    s3_root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = f"{s3_root}/runs/a"
    save(s3_root, 1, 2, 3, 4, max_to_keep=0)
    assert [each["step"] for each in as_json(capsys, "ls", run)["checkpoints"]] == [1, 2, 3, 4]
    assert as_json(capsys, "latest", run)["prefix"] == f"{run}/model.ckpt-4"
    assert as_json(capsys, "verify", run)["ok"]
    assert "20 × 30" in says(capsys, "show", run)
    assert "b'bc'" in says(capsys, "cat", f"{run}/model.ckpt-2", "names")
    assert "w" in says(capsys, "inspect", f"--file_name={run}/model.ckpt-2")
    assert "1 changed" in says(capsys, "diff", f"{run}/model.ckpt-1", f"{run}/model.ckpt-2")
    # Moving: between stores and within one, in and out of other formats.
    as_json(capsys, "cp", f"{run}/model.ckpt-3", f"{s3_root}/copy/m-3", "--publish")
    as_json(capsys, "cp", f"{s3_root}/copy/m-3", f"{tmp_path}/m-3")
    assert ckptd.verify(f"{tmp_path}/m-3").ok
    says(capsys, "export", f"{run}/model.ckpt-3", f"{s3_root}/w.npz", "--only", "w")
    says(capsys, "import", f"{s3_root}/w.npz", f"{s3_root}/imported/m-1")
    assert ckptd.load_variable(f"{s3_root}/imported/m-1", "w")[0, 0] == 3
    assert ckptd.latest_checkpoint(f"{s3_root}/copy") == f"{s3_root}/copy/m-3"
    # Keeping and deleting.
    assert as_json(capsys, "pin", f"{run}/model.ckpt-1")["pinned"]
    assert [each["action"] for each in as_json(capsys, "prune", run, "--keep", 1, "--dry-run")["checkpoints"]] == [
        "keep", "delete", "delete", "keep",
    ]  # fmt: skip
    as_json(capsys, "prune", run, "--keep", 1)
    assert [each["step"] for each in as_json(capsys, "ls", run)["checkpoints"]] == [1, 4]
    as_json(capsys, "unpin", f"{run}/model.ckpt-1")
    as_json(capsys, "rm", f"{run}/model.ckpt-1")
    assert [each["step"] for each in as_json(capsys, "ls", run)["checkpoints"]] == [4]
    assert as_json(capsys, "repair", run)["changed"] is False
    assert as_json(capsys, "doctor", s3_root)["ok"]
    # What is not there.
    assert "there is nothing below" in says(capsys, "ls", f"{s3_root}/nothing", code=3)
    assert "the newest here is 'model.ckpt-4'" in says(capsys, "show", f"{run}/model.ckpt-5", code=3)
    assert "there is no bucket at" in says(capsys, "ls", "s3://a-bucket-that-nobody-made/x", code=3)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert "the secret key does not belong to the access key" in says(capsys, "ls", run, code=9)


def test_tensorflow_reads_what_is_copied_out_of_a_bucket_and_the_state_file_in_it(
    s3_root: str, s3_service: S3Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import tensorflow

    save(s3_root, 1, 2)
    # Byte by byte, as any other program copies a directory.
    client, prefix = s3_service.client(), s3_root.partition(f"{s3_service.bucket}/")[2] + "/runs/a/"
    for each in client.list_objects_v2(Bucket=s3_service.bucket, Prefix=prefix, Delimiter="/")["Contents"]:
        body = client.get_object(Bucket=s3_service.bucket, Key=each["Key"])["Body"].read()
        (tmp_path / each["Key"].removeprefix(prefix)).write_bytes(body)
    assert b"# ckptd" in (tmp_path / "checkpoint").read_bytes()
    latest = tensorflow.train.latest_checkpoint(str(tmp_path))
    assert latest == str(tmp_path / "model.ckpt-2")
    reader = tensorflow.train.load_checkpoint(latest)
    np.testing.assert_array_equal(reader.get_tensor("w"), tensors(2)["w"])
    np.testing.assert_array_equal(reader.get_tensor("names"), [b"a", b"bc"])


def test_a_command_does_not_take_a_run_from_an_owner_of_whom_it_knows_nothing(
    s3_root: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = f"{s3_root}/runs/a"
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("socket.gethostname", lambda: "another-host")
        owner = ckptd.Checkpointer(s3_root, run="runs/a")
        owner.save(1, tensors(1)).result(timeout=120)
    said = says(capsys, "pin", f"{run}/model.ckpt-1", code=4)
    assert "cannot tell whether it is alive" in said
    assert "--take-over" in said
    assert owner.save(2, tensors(2)).result(timeout=120).step == 2  # nothing has happened to it
    assert as_json(capsys, "pin", f"{run}/model.ckpt-1", "--take-over")["pinned"]
    with pytest.raises(ConflictError, match="taken over"):
        owner.save(3, tensors(3)).result(timeout=120)
    owner.close()
    assert ckptd.latest_checkpoint(run) == f"{run}/model.ckpt-2"


def test_a_bucket_is_followed_by_one_small_request_a_second(s3_front: Front, s3_service: S3Service) -> None:
    url = f"s3://{s3_service.bucket}/followed-{time.monotonic_ns()}"
    save(url, 1)
    news = ckptd.follow(f"{url}/runs/a", timeout_s=60)
    assert next(news).step == 1
    s3_front.forget()
    looks: list[Exchange] = []

    def save_later() -> None:
        s3_front.wait_for(4, "HeadObject")
        looks[:] = s3_front.exchanges()
        save(url, 2)

    later = threading.Thread(target=save_later)
    later.start()
    assert next(news).step == 2
    later.join(60)
    assert {(each.operation, each.key.rpartition("/")[2]) for each in looks} == {("HeadObject", "checkpoint")}
    assert all(after.began_s - before.began_s >= 0.9 for before, after in itertools.pairwise(looks))
    news.close()


def test_a_daemon_refuses_a_store_that_ignores_conditions_unless_told_and_then_says_so(
    s3_service: S3Service, s3_root: str, tmp_path: Path
) -> None:
    with LyingStore(s3_service, ALL_CONDITIONS) as liar:
        environment = {**child_environment(), **s3_service.environment(liar.endpoint)}
        serve = [sys.executable, "-m", "ckptd", "serve", "--root", s3_root, "--listen", f"unix://{tmp_path}/d.sock"]
        refused = subprocess.run(serve, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert refused.returncode == 2
        assert "cannot keep a second owner out" in refused.stderr
        assert "If-Match" in refused.stderr
        ready = tmp_path / "ready"
        with subprocess.Popen(
            [*serve, "--allow-unfenced", "--ready-file", str(ready)], env=environment, stderr=subprocess.DEVNULL
        ) as process:
            try:
                eventually(lambda: ready.exists() or process.poll() is not None, "the daemon")
                address = json.loads(ready.read_text())["listening"][0]
                status = prepared.run(
                    [sys.executable, "-m", "ckptd", "status", address],
                    env=environment, capture_output=True, text=True, timeout=120, check=True,
                )  # fmt: skip
            finally:
                process.terminate()
        assert "WARNING: unfenced" in status.stdout


def test_a_second_daemon_on_the_same_host_is_refused(daemon: Daemon, s3_root: str, tmp_path: Path) -> None:
    second = prepared.run(
        [sys.executable, "-m", "ckptd", "serve", "--root", s3_root, "--listen", f"unix://{tmp_path}/d.sock"],
        env=child_environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert second.returncode == 4
    assert f"pid {daemon.pid} on" in second.stderr


def test_a_daemon_that_was_taken_over_from_changes_nothing_more_and_says_by_whom(
    daemon: Daemon, s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = address_of(daemon)
    with ckptd.Checkpointer(address, run="runs/a") as trainer:
        trainer.save(1, tensors(1)).result(timeout=120)
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr("socket.gethostname", lambda: "another-host")
            with ckptd.Checkpointer(s3_root, run="runs/a") as other:
                other.save(2, tensors(2)).result(timeout=120)
        with pytest.raises(ConflictError, match="taken over") as caught:
            trainer.save(3, tensors(3)).result(timeout=120)
        assert "another-host" in str(caught.value)
    with ckptd.Checkpointer(address, run="runs/a") as late, pytest.raises(ConflictError, match="taken over"):
        late.save(4, tensors(4)).result(timeout=120)
    assert ckptd.latest_checkpoint(f"{s3_root}/runs/a") == f"{s3_root}/runs/a/model.ckpt-2"
    assert ckptd.verify(f"{s3_root}/runs/a").ok
    [run] = daemon.status().runs
    assert "taken over" in run.last_error
    assert "another-host" in run.last_error
