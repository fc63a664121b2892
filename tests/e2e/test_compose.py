"""What the compose files promise, read without an engine; `deploy/try_compose` brings them up where there is one."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import yaml

from tests.e2e.test_packaging import REPOSITORY, options_of

COMPOSE = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
CEPH = yaml.safe_load((REPOSITORY / "deploy" / "compose.ceph.yml").read_text())
SERVICES = COMPOSE["services"]
EXAMPLE = (REPOSITORY / ".env.example").read_text()
TEXT = (REPOSITORY / "docker-compose.yml").read_text() + (REPOSITORY / "deploy" / "compose.ceph.yml").read_text()


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_confined_and_limited(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"] == "7070:7070"
    assert {"mem_limit", "cpus", "pids_limit"} <= set(service)
    assert "ports" not in service
    assert "privileged" not in service
    assert "networks" in service or service["network_mode"] == "none"


def test_the_override_gives_another_engine_no_more_rights():
    assert set(CEPH["services"]) == {"s3", "s3-key"}
    for service in CEPH["services"].values():
        assert not {"user", "cap_add", "read_only", "security_opt", "privileged", "networks"} & set(service)
        for volume in service["volumes"]:
            path, _, mode = volume.split(":")
            assert (REPOSITORY / path).is_file()
            assert mode == "ro"
    subprocess.run(["bash", "-n", str(REPOSITORY / "deploy" / "ceph" / "serve")], check=True, timeout=120)


def test_no_secret_is_in_the_files_and_a_missing_one_is_said_to_be_missing():
    assigned = re.findall(r"^ +\w*(?:SECRET|PASSWORD|ACCESS_KEY|ROOT_USER)\w*: (.+)$", TEXT, re.M)
    assert len(assigned) >= 10
    for value in assigned:
        assert re.fullmatch(
            r"\$\{S3_(ACCESS_KEY|SECRET_KEY|ROOT_USER|ROOT_PASSWORD):\?begin with  cp \.env\.example \.env .*\}", value
        )
    assert ".env" in (REPOSITORY / ".gitignore").read_text().splitlines()


def test_the_example_of_settings_is_enough_and_knows_nothing_that_does_not_exist():
    lines = [line.lstrip("#") for line in EXAMPLE.splitlines() if re.match(r"#?[A-Z0-9_]+=", line)]
    named = {line.partition("=")[0] for line in lines}
    used = set(re.findall(r"\$\{([A-Z0-9_]+)", TEXT))
    assert named <= used
    required = set(re.findall(r"\$\{([A-Z0-9_]+):\?", TEXT))
    assert required == {line.partition("=")[0] for line in EXAMPLE.splitlines() if re.match(r"[A-Z]", line)}


def test_images_of_others_are_pinned_by_digest():
    images = [SERVICES["s3"]["image"], CEPH["services"]["s3"]["image"]]
    images.append(SERVICES["ckptd"]["build"]["args"]["PYTHON_IMAGE"])
    for image in images:
        assert re.fullmatch(r"\$\{\w+_IMAGE:-[^@}]+@sha256:[0-9a-f]{64}\}", image)
    dockerfile = (REPOSITORY / "deploy" / "Dockerfile").read_text()
    assert f"ARG PYTHON_IMAGE={images[-1].partition(':-')[2][:-1]}\n" in dockerfile
    assert set(re.findall(r"^FROM (\S+)", dockerfile, re.M)) == {"${PYTHON_IMAGE}"}


def test_the_daemon_is_asked_for_its_health_by_options_and_addresses_that_exist():
    daemon = SERVICES["ckptd"]
    assert daemon["command"][0] == "serve"
    assert {word for word in daemon["command"] if word.startswith("--")} <= options_of("serve")
    cmd, program, command, address = daemon["healthcheck"]["test"]
    assert (cmd, program, command) == ("CMD", "ckptd", "health")
    assert address in daemon["command"]
    assert float(daemon["environment"]["CKPTD_GRACE_S"]) < float(daemon["stop_grace_period"].removesuffix("s"))
    known = {"CKPTD_" + option[2:].upper().replace("-", "_") for option in options_of("serve")}
    assert {name for name in daemon["environment"] if name.startswith("CKPTD_")} <= known
    assert (REPOSITORY / daemon["build"]["dockerfile"]).is_file()


def test_everything_waits_for_what_it_needs():
    waits = {
        (name, needed): wait["condition"]
        for name, service in SERVICES.items()
        for needed, wait in service.get("depends_on", {}).items()
    }
    assert waits == {
        ("s3", "s3-volume"): "service_completed_successfully",
        ("s3-key", "s3"): "service_healthy",
        ("bucket", "s3-key"): "service_completed_successfully",
        ("ckptd", "bucket"): "service_completed_successfully",
        ("ckptd", "tokens"): "service_completed_successfully",
        ("train", "ckptd"): "service_healthy",
    }
    assert "healthcheck" in SERVICES["s3"]


def test_the_demo_is_a_job_of_four_workers_that_needs_no_network():
    train = SERVICES["train"]
    assert train["profiles"] == ["demo"]
    assert [name for name, service in SERVICES.items() if "profiles" in service] == ["train"]
    assert train["network_mode"] == "none"
    address, *options = train["command"]
    assert address in SERVICES["ckptd"]["command"]
    assert options[:2] == ["--workers", "4"]
    example = (REPOSITORY / "examples" / "train_numpy.py").read_text()
    assert all(f'"{word}"' in example for word in options if word.startswith("--"))


def test_only_the_store_and_what_makes_the_daemon_s_key_have_the_administrator_s():
    with_it = {name for name, service in SERVICES.items() if "S3_ROOT_" in str(service)}
    assert with_it == {"s3", "s3-key"}
    assert SERVICES["s3-key"]["image"] == SERVICES["s3"]["image"]  # none of our code
    assert "S3_ROOT_" not in str(CEPH["services"]["s3-key"])  # from docker-compose.yml, as above
    for name in ("bucket", "ckptd"):
        assert SERVICES[name]["environment"]["AWS_ACCESS_KEY_ID"].startswith("${S3_ACCESS_KEY:")
    assert not [
        name for name, service in SERVICES.items() if "AWS_" in str(service) and name not in ("bucket", "ckptd")
    ]


def test_the_job_has_a_token_of_its_own_and_no_other_secret():
    hashes, *holders = SERVICES["tokens"]["command"]
    daemon, train = SERVICES["ckptd"], SERVICES["train"]
    assert daemon["environment"]["CKPTD_TOKENS"] == hashes
    held = dict(holder.split("=") for holder in holders)
    assert train["command"][-2:] == ["--token-file", held["train"]]
    volumes = [volume.split(":")[0] for volume in train["volumes"]]
    assert volumes == ["socket", "train-token"]
    assert not any(volume.startswith("train-token") for volume in daemon["volumes"])
    (policy,) = (v.split(":") for v in daemon["volumes"] if v.endswith(f"{daemon['environment']['CKPTD_POLICY']}:ro"))
    assert (REPOSITORY / policy[0]).is_file()
    made = re.findall(r"install -d -o 7070 -g 7070 -m 0700 (.+)", (REPOSITORY / "deploy" / "Dockerfile").read_text())
    assert {"/" + path.split("/")[1] for path in [hashes, *held.values()]} | {"/prometheus-token"} == set(
        made[0].split()
    )


@pytest.mark.campaign
@pytest.mark.timeout(1800)
def test_the_compose_file_keeps_its_promises_in_real_containers():
    trial = [sys.executable, str(REPOSITORY / "deploy" / "try_compose"), "--kills", "3"]
    with subprocess.Popen(trial, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            out, err = process.communicate(timeout=1500)
        finally:
            process.terminate()  # one that has not ended takes its containers and its engine down first
    print(out)
    assert process.returncode == 0, out + err
    assert out.endswith("everything that was promised was seen\n")


def test_the_trial_says_in_one_line_why_it_cannot_be_made():
    trial = REPOSITORY / "deploy" / "try_compose"
    assert os.access(trial, os.X_OK)
    for flags, code in ((["--if-possible"], 0), ([], 1)):
        done = subprocess.run(
            [sys.executable, str(trial), *flags],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "PATH": "/nonexistent"},  # neither docker nor anything else
        )
        assert done.returncode == code
        assert done.stdout.endswith("not tried: docker is not installed here\n")
        assert done.stdout.count("\n") == 1
        assert done.stderr == ""
