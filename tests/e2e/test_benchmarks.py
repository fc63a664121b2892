"""The benchmarks run, at sizes that measure nothing, so that they still work when somebody needs them."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from ckptd.demo.processes import child_environment
from tests.starts import prepared

REPOSITORY = Path(__file__).resolve().parents[2]
FRAMEWORKS = tuple(
    {**dict.fromkeys(prepared.TENSORFLOW), **dict.fromkeys(prepared.TORCH), **dict.fromkeys(prepared.JAX)}
)


def start(name, *arguments, environment=None, imports=prepared.CKPTD):
    return prepared.run(
        [sys.executable, str(REPOSITORY / "benchmarks" / name), *arguments],
        imports=imports,
        children_fork=True,
        capture_output=True,
        text=True,
        timeout=250,
        env=child_environment() | (environment or {}),
    )


def run(name, *arguments, environment=None, imports=prepared.CKPTD):
    done = start(name, *arguments, "--json", environment=environment, imports=imports)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_a_library_that_fails_here_is_named_and_the_others_go_on(tmp_path):
    broken = tmp_path / "path" / "safetensors"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("")
    (broken / "numpy.py").write_text("def save_file(*_):\n    raise OSError('not on this machine')\n")
    path = os.pathsep.join(filter(None, (str(broken.parent), child_environment().get("PYTHONPATH"))))
    tiny = ("--size=1MiB", "--processes=2", "--tensors=2", "--rounds=2", "--saves=1", "--pause-s=0", "--prepared-s=0")
    contenders = ("--contenders", "raw", "safetensors")
    found = run("peers.py", *tiny, f"--dir={tmp_path}", *contenders, environment={"PYTHONPATH": path})
    assert set(found["contenders"]) == {"raw"}
    assert len(found["contenders"]["raw"]["values"]["cold_s"]) == 2
    assert "not on this machine" in found["missing"]["safetensors"]
    assert [each.name for each in tmp_path.iterdir()] == ["path"]


def test_the_rates_of_a_lane_are_told_for_each_size():
    done = start("lanes.py", "--mib", "4", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["1024", "4096", "2097152"]


def test_the_cost_of_a_slice_is_found_stage_by_stage_and_the_index_read_by_tensorflow():
    found = run("slices.py", "--slices", "100", "1600", "--rounds=1", "--read=2", imports=FRAMEWORKS)
    assert [each["slices"] for each in found["sizes"]] == [100, 1600]
    for each in found["sizes"]:
        assert all(cost > 0 for cost in each["us_per_slice"].values())
        assert each["planned_s"] > 0
        assert each["unchanged_s"] > 0
    assert found["growth"] > 0
    assert (found["tensorflow_tensors"], found["tensorflow_checked"]) == (40, 2)


def test_the_cost_of_a_rank_is_found_for_each_number_of_ranks():
    found = run("ranks.py", "--ranks", "20", "40", "--rounds=1")
    assert [each["ranks"] for each in found["sizes"]] == [20, 40]
    assert all(cost > 0 for cost in found["growth"].values())


def test_a_large_jobs_first_plan_and_index_and_the_next_are_measured():
    found = run("plans.py", "--ranks", "20", "--slices", "5")
    assert [(each["job"], each["slices"], each["entries"]) for each in found["jobs"]] == [
        ("wide", 100, 100),
        ("hosts", 100, 15),
        ("stages", 100, 100),
    ]


def test_many_workers_speak_the_whole_protocol(tmp_path):
    few = ("--workers=12", "--slices=20", "--processes=2", "--saves=2")
    found = run("many_workers.py", *few, f"--dir={tmp_path}")
    assert found["slices"] == 240
    assert len(found["saves"]) == 2
    assert all(0 <= save["commit_s"] <= save["save_s"] for save in found["saves"])
    assert found["daemon_peak_bytes"] >= found["daemon_idle_bytes"] > 0
    assert list(tmp_path.iterdir()) == []


def test_agents_that_only_speak_save_through_a_coordinator(tmp_path):
    few = ("--hosts", "3", "--slices=5", "--processes=1", "--saves=3")
    [found] = run("hosts.py", "coordinator", *few, f"--dir={tmp_path}")["jobs"]
    assert (found["hosts"], found["ranks"], found["slices"]) == (3, 24, 120)
    assert len(found["saves"]) == 3
    first, later = found["first"], found["next"]
    assert later["down_bytes"] < first["down_bytes"] / 2  # what was planned before is not said again
    assert 0 < later["up_bytes"] / found["hosts"] < 4 * 40 + 8 * 200 + 4096
    assert found["bare_cpu_s"].keys() == {"one call", "many calls"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.campaign  # as root: a network of its own, and some 25 processes on it
def test_hosts_save_over_links_of_given_rates(tmp_path):
    few = ("--hosts=2", "--ranks=1", "--size=64KiB", "--tensors=2", "--saves=1", "--to-store=100mbit")
    found = run("hosts.py", "network", *few, f"--dir={tmp_path}")
    assert set(found["medians"]) == {"one host", "agents", "one daemon"}
    assert 0 < found["medians"]["agents"]["to_coordinator_bytes"] < 1 << 16
    assert found["medians"]["one daemon"]["to_coordinator_bytes"] > 2 * 64 << 10
    assert found["restored_from_memory"]["of_checkpoint"] < 1 < found["restored"]["of_checkpoint"]
    assert found["restore_rate_of_store"] > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.campaign  # it waits for leases, a minute in all
def test_a_host_is_killed_whole_and_replaced(tmp_path):
    found = run("hosts.py", "replace", "--size=64KiB", "--tensors=2", "--rounds=1", f"--dir={tmp_path}")
    assert set(found["worst"]) == {"the same name", "another name"}
    assert all(0 < each["restored_s"] < each["saved_s"] for each in found["worst"].values())
    assert list(tmp_path.iterdir()) == []


def test_where_no_network_can_be_made_it_is_said_why(tmp_path):
    done = start("hosts.py", "network", f"--dir={tmp_path}", environment={"PATH": str(tmp_path)})
    assert done.returncode != 0
    assert re.search("cannot run here: .*(need root|install iproute2)", done.stderr), done.stderr


def test_training_stands_still_beside_a_daemon_and_beside_an_agent(tmp_path):
    found = run("hosts.py", "stall", "--size=64KiB", "--tensors=2", "--saves=2", f"--dir={tmp_path}")
    assert {name: len(saves) for name, saves in found["saves"].items()} == {"daemon": 2, "agent": 2}
    assert all(0 < each["stall_s"] <= each["durable_s"] for each in found["medians"].values())
    assert list(tmp_path.iterdir()) == []


def test_steps_of_training_are_timed_with_and_without_a_save_beside_them(tmp_path):
    tiny = ("--size=2MiB", "--tensors=4", "--stream=1MiB", "--cycles=2", "--window-s=0.05", "--processes", "1")
    found = run("interference.py", *tiny, f"--dir={tmp_path}")
    assert [row["training"] for row in found["rows"]] == ["demo", "small", "memory"]
    for row in found["rows"]:
        assert row["quiet_steps"] > 0
        assert row["saving_steps"] > 0
        assert 0 < row["quiet_p50_s"] <= row["quiet_p99_s"]
        assert 0 < row["stall_s"] <= row["durable_s"]
    assert list(tmp_path.iterdir()) == []


def test_everyone_takes_a_turn_at_the_same_job(tmp_path):
    tiny = ("--size=4MiB", "--processes=2", "--tensors=4", "--rounds=1", "--saves=1", "--pause-s=0", "--prepared-s=0")
    contenders = ("--contenders", "copy", "raw", "safetensors", "tensorflow", "ckptd stream", "ckptd")
    found = run("peers.py", *tiny, f"--dir={tmp_path}", *contenders, imports=FRAMEWORKS)
    assert found["job"]["size_bytes"] == 4 << 20
    assert set(found["contenders"]) == set(contenders[1:])
    for name, figures in found["contenders"].items():
        medians = figures["medians"]
        assert 0 < medians["stall_s"] <= medians["durable_s"]
        assert name == "copy" or medians["cold_s"] > 0
    measured = {each["what"] for each in found["verdicts"] if each["ratio"] is not None}
    assert {"durable, of writing with O_DIRECT", "warm restore into arrays, of copying the same bytes"} <= measured
    assert list(tmp_path.iterdir()) == []


def test_small_tensors_are_another_job_and_the_verdict_an_exit_code(tmp_path):
    tiny = ("--small", "--processes=2", "--tensors=40", "--rounds=1", "--saves=1", "--pause-s=0", "--prepared-s=0")
    page = tmp_path / "figures.json"
    done = start("peers.py", *tiny, f"--dir={tmp_path}", "--contenders", "raw", "ckptd", "--json", str(page), "--check")
    assert done.returncode == 0, done.stderr
    assert "NOT REACHED" not in done.stdout  # nobody took part whom ckptd must beat
    assert done.stdout.count("not measured") == 4
    assert json.loads(page.read_text())["job"]["size_bytes"] == 40 * 4096

    for name in ("docs/index.md", "docs/performance.md", "benchmarks/README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)
    given = [f"--{name}={page}" for name in ("peers", "small", "frameworks")]
    written = start("write_figures.py", *given, f"--root={tmp_path}")
    assert written.returncode == 0, written.stderr
    assert "| training stands still |" in (tmp_path / "docs/index.md").read_text()
    figures = (tmp_path / "docs/performance.md").read_text()
    assert figures.count("| ckptd |") == 4
    assert "required" not in figures
    assert (tmp_path / "benchmarks/README.md").read_text().count("| not measured |") == 3 * 4


def test_frameworks_save_by_their_own_ways_and_by_ours(tmp_path):
    tiny = ("--frameworks", "--size=1MiB", "--processes=2", "--tensors=4", "--rounds=1", "--saves=1", "--pause-s=0")
    contenders = ("--contenders", "dcp async", "ckptd.torch", "ckptd.torch dcp", "ckptd.jax", "ckptd.tensorflow")
    found = run("peers.py", *tiny, "--prepared-s=0", f"--dir={tmp_path}", *contenders, imports=FRAMEWORKS)
    assert set(found["contenders"]) == set(contenders[1:])
    assert all(each["medians"]["durable_s"] > 0 for each in found["contenders"].values())
    assert [each["what"] for each in found["verdicts"] if each["ratio"] is not None] == [
        "stall of ckptd.torch dcp, of dcp async",
        "stall of ckptd.torch, of dcp async",
    ]


def test_the_daemons_memory_is_watched_during_a_save(tmp_path):
    found = run("memory.py", "--size=16MiB", "--workers=2", "--saves=2", "--prepared-s=0", f"--dir={tmp_path}")
    assert found["size_bytes"] == 16 << 20
    assert found["samples"] > 1
    assert len(found["saves"]) == 2
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


def test_metrics_are_measured_with_and_without_in_turns(tmp_path):
    found = run("metrics_cost.py", "--rounds=1", "--saves=3", "--size=4KiB", "--runs=200", f"--dir={tmp_path}")
    assert {way: len(each) for way, each in found["save_cpu_s"].items()} == {"with": 1, "without": 1}
    assert found["scrapes"]["1"]["series"] < 600
    assert found["scrapes"]["200"]["series"] < 15_000
    assert list(tmp_path.iterdir()) == []


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
        "lanes.py",
        "slices.py",
        "ranks.py",
        "plans.py",
        "hosts.py",
        "many_workers.py",
        "interference.py",
        "peers.py",
        "memory.py",
        "moving.py",
        "watch.py",
        "metrics_cost.py",
        "object_clients.py",
        "object_store.py",
        "stream.py",
        "write_figures.py",
    ],
)
def test_each_explains_itself(name):
    done = start(name, "--help")
    assert done.returncode == 0, done.stderr
    assert f"python benchmarks/{name}" in done.stdout
