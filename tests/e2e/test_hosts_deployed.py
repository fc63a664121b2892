"""What the compose file and the systemd units for many hosts promise, read without an engine and without systemd."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from ckptd.access import callers
from ckptd.access import policy as access
from ckptd.access.roles import Right
from ckptd.daemon import config
from tests.e2e.test_packaging import REPOSITORY, options_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEPLOY, SYSTEMD = REPOSITORY / "deploy", REPOSITORY / "deploy" / "systemd"
BASE = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())


class Loader(yaml.SafeLoader):
    """Knows the tags by which docker compose replaces what it would merge."""


Loader.add_constructor("!override", lambda loader, node: loader.construct_sequence(node))
COMPOSE = yaml.load((DEPLOY / "compose.hosts.yml").read_text(), Loader)
SERVICES = COMPOSE["services"]
HOSTS = "abc"
AGENTS = {host: SERVICES[f"agent-{host}"] for host in HOSTS}
RANKS = {host: SERVICES[f"train-{host}"] for host in HOSTS}


def mounted(service):
    """Return what is mounted where, and how."""
    parts = (volume.split(":") for volume in service.get("volumes", ()))
    return {target: (source, *mode) for source, target, *mode in parts}


@pytest.mark.parametrize("name", [name for name in SERVICES if name not in BASE["services"]])
def test_every_service_is_confined_and_limited(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"] == "7070:7070"
    assert {"mem_limit", "cpus", "pids_limit"} <= set(service)
    assert not {"ports", "privileged"} & set(service)
    assert "networks" in service or service["network_mode"] == "none"


def test_a_rank_and_its_agent_share_a_socket_and_nothing_else():
    sockets = {host: mounted(AGENTS[host])["/run/ckptd"] for host in HOSTS}
    assert len(set(sockets.values())) == len(HOSTS)
    for host, rank in RANKS.items():
        assert rank["network_mode"] == "none"
        assert rank["profiles"] == ["demo"]
        assert mounted(rank) == {"/run/ckptd": sockets[host], "/train-token": ("train-token", "ro")}
        assert not [name for name in rank["environment"] if name.startswith(("AWS_", "S3_", "CKPTD_"))]
        assert rank["command"][0] in AGENTS[host]["command"]
        assert rank["depends_on"] == {f"agent-{host}": {"condition": "service_healthy"}}
    ranks = [(rank["environment"]["RANK"], rank["environment"]["WORLD_SIZE"]) for rank in RANKS.values()]
    assert ranks == [(str(number), str(len(HOSTS))) for number in range(len(HOSTS))]
    assert SERVICES["train"] == {"profiles": ["never"]}


@pytest.mark.parametrize("host", HOSTS)
def test_an_agent_has_options_that_exist_and_secrets_of_its_own(host):
    agent, environment = AGENTS[host], AGENTS[host]["environment"]
    known = {"CKPTD_" + option[2:].upper().replace("-", "_") for option in options_of("serve")}
    assert {name for name in environment if name.startswith("CKPTD_")} <= known
    assert {word for word in agent["command"] if word.startswith("--")} <= options_of("serve")
    assert environment["CKPTD_NAME"] == host
    assert mounted(agent)["/host"] == (f"host-{host}", "ro")
    assert environment["CKPTD_ADVERTISE"] == f"grpcs://agent-{host}:7070"
    cmd, program, command, address = agent["healthcheck"]["test"]
    assert (cmd, program, command) == ("CMD", "ckptd", "health")
    assert address in agent["command"]
    assert float(environment["CKPTD_GRACE_S"]) < float(agent["stop_grace_period"].removesuffix("s"))
    limit = re.search(r":-(\d+)g", agent["mem_limit"])
    assert int(limit[1]) << 30 >= int(environment["CKPTD_ARENA_BYTES"]) + (512 << 20)


def test_the_coordinator_is_where_agents_call_it_and_its_options_exist():
    coordinator = SERVICES["ckptd"]
    given = [word.partition("=") for word in coordinator["command"][1:]]
    assert {name for name, _, _ in given} <= options_of("serve")
    (advertised,) = (value for name, _, value in given if name == "--advertise")
    assert {agent["environment"]["CKPTD_COORDINATOR"] for agent in AGENTS.values()} == {advertised}
    assert coordinator["networks"]["storage"]["aliases"] == ["coordinator"]
    assert advertised == "grpcs://coordinator:7070"
    files = {value.rpartition("/")[0] for _, _, value in given if value.startswith("/")}
    assert files == {"/host"}
    assert mounted(coordinator)["/host"] == ("host-coordinator", "ro")


def test_certificates_and_tokens_go_to_whom_they_are_for_and_the_authority_s_key_to_none():
    _, *certificates = SERVICES["certificates"]["command"]
    at = mounted(SERVICES["certificates"])
    volumes = {name: at[directory][0] for name, directory in (each.split("=") for each in certificates)}
    assert volumes == {"coordinator": "host-coordinator", **{f"agent-{host}": f"host-{host}" for host in HOSTS}}
    users = [name for name, service in SERVICES.items() if "authority" in {v[0] for v in mounted(service).values()}]
    assert users == ["certificates"]
    hashes, *tokens = SERVICES["tokens"]["command"]
    at = mounted({"volumes": [*BASE["services"]["tokens"]["volumes"], *SERVICES["tokens"]["volumes"]]})
    held = {name: at[path.rpartition("/")[0]][0] for name, path in (each.split("=") for each in tokens)}
    assert held == {"operator": "identities", "train": "train-token", **{f"agent-{h}": f"host-{h}" for h in HOSTS}}
    assert at[hashes.rpartition("/")[0]][0] == "tokens"
    for service in (SERVICES["ckptd"], *AGENTS.values()):
        assert service["environment"]["CKPTD_TOKENS"] == "/tokens/tokens.json"
        assert mounted(service)["/tokens"] == ("tokens", "ro")
    made = re.findall(r"install -d -o 7070 -g 7070 -m 0700 (/hosts.+)", (DEPLOY / "Dockerfile").read_text())[0].split()
    targets = {*mounted(SERVICES["certificates"]), *mounted(SERVICES["tokens"])}
    assert set(made) == targets  # a new volume takes its owner from there
    assert "!deploy/make_certificates.py" in (REPOSITORY / ".dockerignore").read_text().splitlines()


def test_the_policy_lets_the_job_save_and_agents_write_and_neither_more():
    policy = access.parse(tomllib.loads((DEPLOY / "policy.hosts.toml").read_text()))
    train, agent = callers.of_token("train"), callers.of_token("agent-b")
    assert policy.allows(train, Right.SAVE, "examples/linear")
    assert not policy.allows(train, Right.SAVE, "other")
    assert not policy.allows(train, Right.AGENT, "examples/linear")
    assert policy.allows(agent, Right.AGENT, "examples/linear")
    assert not policy.allows(agent, Right.AGENT, "other")
    assert not policy.allows(agent, Right.MANAGE, "examples/linear")
    assert policy.allows_everywhere(callers.of_token("operator"), Right.ADMIN)


def test_certificates_are_made_once_and_each_name_has_its_own(tmp_path):
    made = [sys.executable, str(DEPLOY / "make_certificates.py"), str(tmp_path / "authority")]
    hosts = [f"{name}={tmp_path / name}" for name in ("coordinator", "agent-a")]

    def run():
        return subprocess.run([*made, *hosts], capture_output=True, text=True, timeout=120, check=True).stdout

    assert run().count(": made") == 2
    before = {path: path.read_bytes() for path in tmp_path.glob("*/*")}
    assert sorted(path.name for path in (tmp_path / "agent-a").iterdir()) == ["ca.crt", "server.crt", "server.key"]
    assert (tmp_path / "agent-a" / "ca.crt").read_bytes() == (tmp_path / "authority" / "ca.crt").read_bytes()
    assert (tmp_path / "agent-a" / "server.key").stat().st_mode & 0o077 == 0
    assert run().count(": there already") == 2
    assert {path: path.read_bytes() for path in tmp_path.glob("*/*")} == before
    (tmp_path / "agent-a" / "server.key").unlink()
    assert ": made" in run().splitlines()[1]
    assert (tmp_path / "coordinator" / "server.crt").read_bytes() == before[tmp_path / "coordinator" / "server.crt"]


@pytest.mark.campaign
@pytest.mark.timeout(1800)
def test_many_hosts_keep_their_promises_in_real_containers():
    trial = [sys.executable, str(DEPLOY / "try_hosts")]
    with subprocess.Popen(trial, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            out, err = process.communicate(timeout=1500)
        finally:
            process.terminate()  # one that has not ended takes its containers and its engine down first
    print(out)
    assert process.returncode == 0, out + err
    assert out.endswith("everything that was promised was seen\n")


def test_the_trial_says_in_one_line_why_it_cannot_be_made():
    trial = DEPLOY / "try_hosts"
    assert os.access(trial, os.X_OK)
    done = subprocess.run(
        [sys.executable, str(trial), "--if-possible"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PATH": "/nonexistent"},  # neither docker nor anything else
    )
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        done.stdout[:11] + "not tried: docker is not installed here\n",
        "",
    )


# systemd


def unit(name):
    """Return the settings of a unit, by section and key: a list each, as a key may be repeated."""
    sections: dict[str, dict[str, list[str]]] = {}
    section: dict[str, list[str]] = {}
    for line in (SYSTEMD / name).read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = sections.setdefault(header[1], {})
            continue
        key, _, value = line.partition("=")
        assert re.fullmatch(r"[A-Z]\w+", key), line
        section.setdefault(key, []).append(value)
    return sections


@pytest.mark.parametrize("role", ["coordinator", "agent"])
def test_a_unit_starts_its_role_by_options_that_exist_and_gives_it_time(role):
    service = unit(f"ckptd-{role}.service")["Service"]
    (start,) = service["ExecStart"]
    program, command, *rest = start.split()
    assert (program, command) == ("/usr/bin/ckptd", "serve")
    assert dict(zip(rest[::2], rest[1::2], strict=True)) == {"--role": role, "--config": f"/etc/ckptd/{role}.toml"}
    assert set(rest[::2]) <= options_of("serve")
    environment = dict(each.split("=") for each in service["Environment"])
    assert float(environment["CKPTD_GRACE_S"]) < float(service["TimeoutStopSec"][0])
    assert float(service["RestartSec"][0]) < config.Config().agent_lease_s
    assert int(service["LimitNOFILE"][0]) >= 1 << 20
    assert unit(f"ckptd-{role}.service")["Unit"]["StartLimitIntervalSec"] == ["0"]


@pytest.mark.parametrize("role", ["coordinator", "agent"])
def test_a_unit_has_no_capability_and_writes_nowhere_but_to_its_own(role):
    service = unit(f"ckptd-{role}.service")["Service"]
    assert service["CapabilityBoundingSet"] == [""]
    for key in ("NoNewPrivileges", "PrivateTmp", "PrivateDevices", "ProtectHome", "RestrictNamespaces"):
        assert service[key] == ["yes"], key
    assert service["ProtectSystem"] == ["strict"]
    assert service["User"] == ["ckptd"]
    assert re.search(r"^u ckptd - ", (SYSTEMD / "ckptd.sysusers.conf").read_text(), re.M)


@pytest.mark.parametrize("role", ["coordinator", "agent"])
def test_the_settings_beside_a_unit_are_settings_and_listen_where_the_unit_lets_them(role):
    loaded = config.load({"role": role}, {}, config_file=str(SYSTEMD / f"{role}.toml")).config
    service = unit(f"ckptd-{role}.service")["Service"]
    (socket,) = (address for address in loaded.listen if address.startswith("unix://"))
    assert socket.startswith(f"unix:///run/{service['RuntimeDirectory'][0]}/")
    if loaded.audit_log is not None:
        assert loaded.audit_log.startswith(f"/var/log/{service['LogsDirectory'][0]}/")
    if role == "agent":
        assert socket == "unix:///run/ckptd/ckptd.sock"  # where trainers look
        assert loaded.socket_mode == "0666"
        assert loaded.policy is not None


@pytest.mark.campaign
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path):
    assert shutil.which("systemd-analyze"), "it comes with systemd"
    for role in ("coordinator", "agent"):
        text = (SYSTEMD / f"ckptd-{role}.service").read_text()
        (tmp_path / f"ckptd-{role}.service").write_text(text.replace("/usr/bin/ckptd", sys.executable))
        path = str(tmp_path / f"ckptd-{role}.service")
        verified = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, timeout=120)
        assert (verified.returncode, verified.stderr) == (0, "")
        judged = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", "--threshold=20", path],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert judged.returncode == 0, judged.stdout[-300:]
