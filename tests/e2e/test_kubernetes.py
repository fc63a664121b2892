"""The manifests, rendered and checked without a cluster."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from ckptd.access import callers
from ckptd.access import policy as access
from ckptd.access.roles import Right
from ckptd.cli import main
from tests.e2e.test_packaging import REPOSITORY, options_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KUBERNETES = REPOSITORY / "deploy" / "kubernetes"
SECRETS = {"ckptd-s3", "ckptd-tls", "ckptd-tokens", "train-token"}  # whoever deploys makes them, docs/deploying.md
WITH_TEMPLATES = ("StatefulSet", "Deployment", "DaemonSet", "Job")


def render(directory: Path) -> list[dict]:
    """Do what `kubectl kustomize` does, as far as our kustomizations go; anything else in them is refused."""
    kustomization = yaml.safe_load((directory / "kustomization.yaml").read_text())
    assert set(kustomization) <= {"apiVersion", "kind", "namespace", "resources", "labels", "images"}
    rendered = []
    for name in kustomization["resources"]:
        rendered += yaml.safe_load_all((directory / name).read_text())
    for manifest in rendered:
        if manifest["kind"] != "Namespace":
            manifest["metadata"]["namespace"] = kustomization["namespace"]
        for labels in kustomization["labels"]:
            manifest["metadata"].setdefault("labels", {}).update(labels["pairs"])
        for container in containers_of(manifest):
            for image in kustomization["images"]:
                if container["image"] == image["name"]:
                    container["image"] = f"{image['newName']}:{image['newTag']}"
    return rendered


def pod_of(manifest: dict) -> dict | None:
    return manifest["spec"]["template"]["spec"] if manifest["kind"] in WITH_TEMPLATES else None


def containers_of(manifest: dict) -> list[dict]:
    pod = pod_of(manifest)
    return [] if pod is None else [*pod.get("initContainers", ()), *pod["containers"]]


DAEMON = render(KUBERNETES)
EXAMPLE = render(KUBERNETES / "example")
ALL = [*DAEMON, *EXAMPLE]
WITH_PODS = [manifest for manifest in ALL if pod_of(manifest)]


def name_of(manifest: dict) -> str:
    return f"{manifest['kind']}-{manifest['metadata']['name']}"


def the(kind: str, name: str | None = None) -> dict:
    (found,) = (m for m in ALL if m["kind"] == kind and (name is None or m["metadata"]["name"] == name))
    return found


SETTINGS = the("ConfigMap", "ckptd")["data"]


def check(manifest: dict) -> None:
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("manifest", ALL, ids=name_of)
def test_every_manifest_is_what_kubernetes_expects(manifest):
    check(manifest)


def test_a_field_that_kubernetes_does_not_know_would_be_noticed():
    misspelt = copy.deepcopy(the("StatefulSet"))
    pod_of(misspelt)["securityContext"]["runAsNonroot"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        check(misspelt)


def test_every_file_is_part_of_a_kustomization():
    for directory in (KUBERNETES, KUBERNETES / "example"):
        listed = yaml.safe_load((directory / "kustomization.yaml").read_text())["resources"]
        assert sorted(listed) == sorted(p.name for p in directory.glob("*.yaml") if p.name != "kustomization.yaml")


def test_the_namespace_enforces_the_restricted_profile():
    assert the("Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("manifest", WITH_PODS, ids=name_of)
def test_pods_keep_to_the_restricted_profile_and_to_limits(manifest):
    pod = pod_of(manifest)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 7070  # the image's
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert all({"emptyDir", "secret", "configMap"} & set(volume) for volume in pod["volumes"])
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"]
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_no_secret_has_its_value_in_the_files():
    assert all(manifest["kind"] != "Secret" for manifest in ALL)
    referred = {
        volume["secret"]["secretName"] for m in WITH_PODS for volume in pod_of(m)["volumes"] if "secret" in volume
    }
    for container in containers_of(the("StatefulSet")):
        referred |= {source["secretRef"]["name"] for source in container["envFrom"] if "secretRef" in source}
    assert referred == SECRETS
    assert not [name for name in SETTINGS if "SECRET" in name or "TOKEN" in name or "ACCESS_KEY" in name]


def test_the_daemon_listens_with_tls_and_knows_tokens_and_a_policy_and_its_probes_ask_it_by_the_socket():
    (daemon,) = containers_of(the("StatefulSet"))
    assert daemon["args"][0] == "serve"
    given = dict(word.split("=", 1) for word in daemon["args"][2:])
    assert "--listen=grpcs://0.0.0.0:7070" in daemon["args"]
    assert {"--tls-cert", "--tls-key", "--tokens", "--policy"} <= set(given)
    assert set(given) <= options_of("serve")
    mounted = {mount["mountPath"]: mount["name"] for mount in daemon["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod_of(the("StatefulSet"))["volumes"]}
    directory, _, name = given["--policy"].rpartition("/")
    assert name in the("ConfigMap", volumes[mounted[directory]]["configMap"]["name"])["data"]
    assert "secret" in volumes[mounted[given["--tokens"].rpartition("/")[0]]]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        program, command, address = daemon[probe]["exec"]["command"]
        assert program == "ckptd"
        assert command in main.COMMANDS
        assert f"--listen={address}" in daemon["args"]


def test_workers_may_save_below_their_own_prefix_and_nothing_else():
    policy = access.parse(tomllib.loads(the("ConfigMap", "ckptd-policy")["data"]["policy.toml"]))
    worker, operator = (
        callers.of_token("train"),
        callers.of_user(pod_of(the("StatefulSet"))["securityContext"]["runAsUser"]),
    )
    (run,) = (word.partition("=")[2] for word in containers_of(the("Job"))[0]["args"] if word.startswith("--run="))
    assert policy.allows(worker, Right.SAVE, run)
    assert not policy.allows(worker, Right.SAVE, "other/run")
    assert not policy.allows(worker, Right.READ, "other/run")
    assert not policy.allows(worker, Right.MANAGE, run)
    assert policy.allows_everywhere(operator, Right.ADMIN)
    assert policy.floor(run).keep_at_least > 0


def test_its_settings_exist_and_it_is_given_time_to_finish_saves():
    known = {"CKPTD_" + option[2:].upper().replace("-", "_") for option in options_of("serve")}
    assert {name for name in SETTINGS if name.startswith("CKPTD_")} <= known
    assert float(SETTINGS["CKPTD_GRACE_S"]) < pod_of(the("StatefulSet"))["terminationGracePeriodSeconds"]


def test_selectors_find_the_pods_that_they_are_meant_for():
    labels = the("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert the("StatefulSet")["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert the("Service")["spec"]["selector"].items() <= labels.items()
    assert the("PodDisruptionBudget")["spec"]["selector"]["matchLabels"].items() <= labels.items()
    policies = {m["metadata"]["name"]: m["spec"] for m in ALL if m["kind"] == "NetworkPolicy"}
    assert policies["ckptd-nobody-else"]["podSelector"] == {}
    assert policies["ckptd-daemon"]["podSelector"]["matchLabels"].items() <= labels.items()
    worker = the("Job")["spec"]["template"]["metadata"]["labels"]
    (admitted,) = policies["ckptd-daemon"]["ingress"][0]["from"]
    assert admitted["podSelector"]["matchLabels"].items() <= worker.items()


def test_the_example_job_is_four_workers_that_find_the_daemon():
    job = the("Job")["spec"]
    (worker,) = containers_of(the("Job"))
    environment = {variable["name"]: variable for variable in worker["env"]}
    assert job["completionMode"] == "Indexed"
    assert str(job["completions"]) == str(job["parallelism"]) == environment["WORLD_SIZE"]["value"] == "4"
    path = environment["RANK"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert path == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    service = the("Service")
    (port,) = service["spec"]["ports"]
    host = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
    assert worker["args"][0] == f"grpcs://{host}:{port['port']}"
    example = (REPOSITORY / "examples" / "train_numpy.py").read_text()
    for word in worker["args"][1:]:
        assert f'"{word.partition("=")[0]}"' in example
