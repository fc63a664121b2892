"""The manifests for many hosts, rendered and checked without a cluster."""

from __future__ import annotations

import sys

import pytest
import yaml

from ckptd.access import callers
from ckptd.access import policy as access
from ckptd.access.roles import Right
from ckptd.cli import main
from tests.e2e.test_kubernetes import KUBERNETES, check, containers_of, name_of, pod_of, render
from tests.e2e.test_packaging import REPOSITORY, options_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HOSTS = KUBERNETES / "hosts"
PARTS = {name: render(HOSTS / name) for name in ("coordinator", "agents", "example")}
ALL = [manifest for part in PARTS.values() for manifest in part]
WITH_PODS = [manifest for manifest in ALL if pod_of(manifest)]
NEEDED = 512 << 20  # of an agent, besides the memory that it lends


def the(kind: str, part: str | None = None) -> dict:
    (found,) = (m for name, each in PARTS.items() for m in each if m["kind"] == kind and part in (None, name))
    return found


def main_container(manifest: dict) -> dict:
    return pod_of(manifest)["containers"][0]


def given(manifest: dict) -> dict[str, list[str]]:
    """Return the options of a daemon."""
    found: dict[str, list[str]] = {}
    for word in main_container(manifest)["args"][1:]:
        name, _, value = word.partition("=")
        found.setdefault(name, []).append(value)
    return found


COORDINATOR, AGENT, JOB = the("Deployment"), the("DaemonSet"), the("Job")


@pytest.mark.parametrize("manifest", ALL, ids=name_of)
def test_every_manifest_is_what_kubernetes_expects(manifest):
    check(manifest)


def test_every_file_is_part_of_a_kustomization():
    for name in PARTS:
        listed = yaml.safe_load((HOSTS / name / "kustomization.yaml").read_text())["resources"]
        assert sorted(listed) == sorted(p.name for p in (HOSTS / name).glob("*.yaml") if p.name != "kustomization.yaml")


@pytest.mark.parametrize("manifest", WITH_PODS, ids=name_of)
def test_pods_keep_to_the_restricted_profile_but_for_the_directory_of_the_node(manifest):
    pod = pod_of(manifest)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    mounted = {volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume}
    assert mounted == (set() if manifest is COORDINATOR else {"/run/ckptd"})
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    for first in pod.get("initContainers", ()):
        assert manifest is AGENT
        assert first["command"][0] == "chown"
        assert first["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["CHOWN"]}
        assert [mount["mountPath"] for mount in first["volumeMounts"]] == ["/run/ckptd"]


def test_only_the_namespace_with_such_a_directory_enforces_no_profile():
    enforced = {
        part: the("Namespace", part)["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
        for part in ("coordinator", "agents")
    }
    assert enforced == {"coordinator": "restricted", "agents": "privileged"}
    assert JOB["metadata"]["namespace"] == AGENT["metadata"]["namespace"]


def test_there_is_one_coordinator_and_the_old_one_ends_first():
    assert COORDINATOR["spec"]["replicas"] == 1
    assert COORDINATOR["spec"]["strategy"] == {"type": "Recreate"}


@pytest.mark.parametrize("manifest", [COORDINATOR, AGENT], ids=["coordinator", "agent"])
def test_daemons_have_options_settings_and_probes_that_exist(manifest):
    options = given(manifest)
    assert main_container(manifest)["args"][0] == "serve"
    assert set(options) <= options_of("serve")
    config = next(
        m
        for m in ALL
        if m["kind"] == "ConfigMap"
        and m["metadata"]["name"] == main_container(manifest)["envFrom"][0]["configMapRef"]["name"]
    )["data"]
    known = {"CKPTD_" + option[2:].upper().replace("-", "_") for option in options_of("serve")}
    assert {name for name in config if name.startswith("CKPTD_")} <= known
    assert float(config["CKPTD_GRACE_S"]) < pod_of(manifest)["terminationGracePeriodSeconds"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        program, command, address = main_container(manifest)[probe]["exec"]["command"]
        assert program == "ckptd"
        assert command in main.COMMANDS
        assert address in options["--listen"]
    assert main_container(manifest)["livenessProbe"]["exec"]["command"][1] == "status"  # a drain, a lost coordinator
    mounts = {mount["mountPath"] for mount in main_container(manifest)["volumeMounts"]}
    for values in options.values():
        for path in (value for value in values if value.startswith("/")):
            assert path.rpartition("/")[0] in mounts, path


def test_agents_find_the_coordinator_by_its_service_and_a_name_that_stays():
    service = the("Service")
    (port,) = service["spec"]["ports"]
    name = f"grpcs://{service['metadata']['name']}.{service['metadata']['namespace']}.svc:{port['port']}"
    assert given(AGENT)["--coordinator"] == given(COORDINATOR)["--advertise"] == [name]
    assert service["spec"]["selector"].items() <= COORDINATOR["spec"]["template"]["metadata"]["labels"].items()
    assert service["spec"]["publishNotReadyAddresses"] is True
    fields = {each["name"]: each["valueFrom"]["fieldRef"]["fieldPath"] for each in main_container(AGENT)["env"]}
    assert fields == {"NODE_NAME": "spec.nodeName", "POD_IP": "status.podIP"}
    settings = {part: the_settings(part) for part in ("coordinator", "agents")}
    for shared in ("CKPTD_ROOT", "AWS_ENDPOINT_URL", "AWS_REGION"):
        assert settings["coordinator"][shared] == settings["agents"][shared]


def test_agents_reach_each_other_at_their_pods_addresses_by_the_name_of_one_certificate():
    (port,) = main_container(AGENT)["ports"]
    options = given(AGENT)
    assert f"grpcs://0.0.0.0:{port['containerPort']}" in options["--listen"]
    assert options["--advertise"] == [f"grpcs://$(POD_IP):{port['containerPort']}"]
    assert f"ckptd certs {options['--peer-name'][0]} " in (REPOSITORY / "docs" / "deploying.md").read_text()
    (policy,) = (
        m["spec"] for m in PARTS["agents"] if m["kind"] == "NetworkPolicy" and m["metadata"]["name"] == "ckptd-agent"
    )
    labels = AGENT["spec"]["template"]["metadata"]["labels"]
    for rule, side in ((policy["ingress"][0], "from"), (policy["egress"][0], "to")):
        assert rule["ports"] == [{"port": port["containerPort"], "protocol": "TCP"}]
        assert rule[side][0]["podSelector"]["matchLabels"].items() <= labels.items()
    for right in (Right.AGENT, Right.SAVE):
        assert policy_of("agents").allows(callers.of_token("agents"), right, "examples/run")
        assert not policy_of("agents").allows(callers.of_token("agents"), right, "other/run")
    assert not policy_of("agents").allows(callers.of_token("train"), Right.AGENT, "examples/run")


def the_settings(part: str) -> dict:
    return next(m["data"] for m in PARTS[part] if m["kind"] == "ConfigMap" and "CKPTD_ROOT" in m["data"])


def test_an_agent_has_memory_for_what_it_lends_and_for_itself():
    lent = int(the_settings("agents")["CKPTD_ARENA_BYTES"])
    resources = main_container(AGENT)["resources"]
    assert resources["limits"]["memory"] == resources["requests"]["memory"]
    assert int(resources["limits"]["memory"].removesuffix("Mi")) << 20 == lent + NEEDED


def policy_of(part: str) -> access.Policy:
    (text,) = (m["data"]["policy.toml"] for m in PARTS[part] if "policy.toml" in m.get("data", {}))
    return access.parse(tomllib.loads(text))


def test_ranks_may_save_at_their_agent_and_agents_at_the_coordinator_and_neither_more():
    (run,) = (word.partition("=")[2] for word in main_container(JOB)["args"] if word.startswith("--run="))
    at_agents, at_coordinator = policy_of("agents"), policy_of("coordinator")
    rank, agents = callers.of_token("train"), callers.of_token("agents")
    assert at_agents.allows(rank, Right.SAVE, run)
    assert not at_agents.allows(rank, Right.SAVE, "other/run")
    assert not at_coordinator.allows(rank, Right.READ, run)
    assert at_coordinator.allows(agents, Right.AGENT, run)
    assert not at_coordinator.allows(agents, Right.AGENT, "other/run")
    assert not at_coordinator.allows(agents, Right.MANAGE, run)
    assert at_coordinator.floor(run).keep_at_least > 0
    # The agent's user may do all at its socket: so no rank is that user.
    user = pod_of(AGENT)["securityContext"]["runAsUser"]
    assert at_agents.allows_everywhere(callers.of_user(user), Right.ADMIN)
    assert pod_of(JOB)["securityContext"]["runAsUser"] != user


def test_no_secret_has_its_value_in_the_files_and_the_authority_s_key_is_with_nobody():
    assert all(manifest["kind"] != "Secret" for manifest in ALL)
    referred = {
        volume["secret"]["secretName"] for m in WITH_PODS for volume in pod_of(m)["volumes"] if "secret" in volume
    }
    assert referred == {
        "ckptd-tls", "ckptd-tokens", "ckptd-ca", "ckptd-agent-token", "ckptd-agent-tls", "ckptd-rank-tokens",
        "train-token",
    }  # fmt: skip
    with_key = [name_of(m) for m in WITH_PODS if "envFrom" in main_container(m)]
    assert sorted(with_key) == ["DaemonSet-ckptd-agent", "Deployment-ckptd-coordinator"]  # no rank


def test_the_network_lets_agents_reach_the_coordinator_and_ranks_nothing():
    policies = {
        (m["metadata"]["namespace"], m["metadata"]["name"]): m["spec"] for m in ALL if m["kind"] == "NetworkPolicy"
    }
    for namespace in ("ckptd-hosts", "ckptd-agents"):
        assert policies[namespace, "ckptd-nobody-else"]["podSelector"] == {}
    (admitted,) = policies["ckptd-hosts", "ckptd-coordinator"]["ingress"][0]["from"]
    labels = AGENT["spec"]["template"]["metadata"]["labels"]
    assert admitted["podSelector"]["matchLabels"].items() <= labels.items()
    namespace = admitted["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
    assert namespace == AGENT["metadata"]["namespace"]
    assert policies["ckptd-agents", "ckptd-agent"]["podSelector"]["matchLabels"].items() <= labels.items()
    ranks = JOB["spec"]["template"]["metadata"]["labels"]
    assert not [
        spec for spec in policies.values() if spec["podSelector"].get("matchLabels", {"": ""}).items() <= ranks.items()
    ]


def test_the_example_job_is_eight_workers_spread_over_nodes_that_find_their_agent():
    job, worker = JOB["spec"], main_container(JOB)
    environment = {variable["name"]: variable for variable in worker["env"]}
    assert job["completionMode"] == "Indexed"
    assert str(job["completions"]) == str(job["parallelism"]) == environment["WORLD_SIZE"]["value"] == "8"
    (spread,) = pod_of(JOB)["topologySpreadConstraints"]
    assert spread["topologyKey"] == "kubernetes.io/hostname"
    assert worker["args"][0] in given(AGENT)["--listen"]
    socket = next(mount for mount in worker["volumeMounts"] if mount["name"] == "socket")
    assert socket == {"name": "socket", "mountPath": "/run/ckptd", "readOnly": True}
    assert given(AGENT)["--socket-mode"] == ["0666"]
    example = (REPOSITORY / "examples" / "train_numpy.py").read_text()
    for word in worker["args"][1:]:
        assert f'"{word.partition("=")[0]}"' in example


def test_containers_are_all_of_the_one_image():
    images = {container["image"] for manifest in WITH_PODS for container in containers_of(manifest)}
    assert images == {"registry.example/ckptd:0.1.0"}
