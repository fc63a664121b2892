"""The benchmarks run, at sizes that measure nothing, so that they still work when somebody needs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ckptd.demo.processes import child_environment

REPOSITORY = Path(__file__).resolve().parents[2]


def run(name, *arguments, environment=None):
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "benchmarks" / name), *arguments, "--json"],
        capture_output=True,
        text=True,
        timeout=250,
        env=child_environment() | (environment or {}),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_the_merge_of_an_index_is_timed_and_read_by_tensorflow():
    found = run("merge_index.py", "--tensors=40", "--workers=30", "--rounds=1", "--check=2")
    assert found["slices"] == 1200
    assert found["tensorflow_tensors"] == 40
    assert found["tensorflow_checked"] == 2


def test_save_and_restore_are_timed_for_all_three(tmp_path):
    found = run("save_restore.py", "--size=4MiB", "--processes=2", "--tensors=4", "--rounds=1", f"--dir={tmp_path}")
    assert found["size_bytes"] == 4 << 20
    for contender in ("raw", "tensorflow", "ckptd"):
        medians = found["medians"][contender]
        assert 0 < medians["stall_s"] <= medians["durable_s"]
        assert medians["restore_s"] > 0
    assert list(tmp_path.iterdir()) == []


def test_the_daemons_memory_is_watched_during_a_save(tmp_path):
    found = run("memory.py", "--size=16MiB", "--workers=2", f"--dir={tmp_path}")
    assert found["size_bytes"] == 16 << 20
    assert found["samples"] > 1
    assert found["rss_peak_bytes"] >= found["rss_before_bytes"]


def test_the_stream_is_measured_beside_bare_grpc_both_ways(tmp_path):
    (found,) = run("stream.py", "--size=8MiB", "--clients=2", "--rounds=1", f"--dir={tmp_path}")
    assert found["size_bytes"] == 8 << 20
    assert len(found["medians"]) == 7
    for contender, median in found["medians"].items():
        assert median["rate"] > 0
        assert ("ratio" in median) == ("ckptd" in contender)
    assert list(tmp_path.iterdir()) == []


def test_moving_a_checkpoint_is_measured_command_by_command(tmp_path):
    found = run("moving.py", "--size=16MiB", f"--dir={tmp_path}")
    assert found["size_bytes"] == 16 << 20
    assert {"cp", "export npz", "import safetensors", "diff"} <= set(found["commands"])
    assert list(tmp_path.iterdir()) == []


def test_publications_are_heard_by_all_who_watch(tmp_path):
    found = run("watch.py", "--watchers=30", "--directory-watchers=3", "--publishes=3", f"--dir={tmp_path}")
    assert (found["daemon"]["samples"], found["directory"]["samples"]) == (90, 9)
    for place in ("daemon", "directory"):
        assert 0 <= found[place]["p50_ms"] <= found[place]["p99_ms"] <= found[place]["max_ms"]


def test_clients_of_a_bucket_take_turns_and_leave_nothing(s3_service):
    environment = s3_service.environment()
    small = ("--objects=2", "--size=18MiB", "--rounds=1", "--bucket=ckptd-clients")
    found = run("object_clients.py", *small, environment=environment)
    assert found["size_bytes"] == 36 << 20
    assert set(found["medians"]) == {"ckptd", "ckptd by s3fs", "obstore unsigned", "obstore", "boto3", "s3fs put"}
    assert max(one["upload_of_best"] for one in found["medians"].values()) == 1.0
    assert is_empty(s3_service, "ckptd-clients")


def test_a_bucket_is_saved_to_and_restored_from_beside_bare_clients(s3_service):
    environment = s3_service.environment()
    small = ("--size=4MiB", "--processes=2", "--tensors=4", "--rounds=1", "--bucket=ckptd-saves")
    found = run("object_store.py", *small, environment=environment)
    assert found["size_bytes"] == 4 << 20
    assert found["medians"]["ckptd"]["save_daemon_peak_mib"] > 0
    for action in ("save", "restore"):
        assert found["ratios"][action]["ratio"] > 0
        assert found["ratios"][action]["best"] in found["medians"]
    assert is_empty(s3_service, "ckptd-saves")


def is_empty(s3_service, bucket):
    client = s3_service.client()
    uploads = client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    return client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0 and not uploads


@pytest.mark.parametrize(
    "name",
    [
        "merge_index.py",
        "save_restore.py",
        "memory.py",
        "moving.py",
        "watch.py",
        "object_clients.py",
        "object_store.py",
        "stream.py",
    ],
)
def test_each_explains_itself(name):
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "benchmarks" / name), "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        env=child_environment(),
    )
    assert done.returncode == 0, done.stderr
    assert f"python benchmarks/{name}" in done.stdout
