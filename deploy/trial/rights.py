"""What the services of the compose file may do, asked of the running containers: their confinement, tokens, keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trial.engine import say
from trial.project import OPERATOR_TOKEN, SOCKET, TRAIN_TOKEN, Project, expect

NOT_PERMITTED = 9  # the exit code of `ckptd` for what a policy refuses
SECRETS = {"ckptd": ("/identities", OPERATOR_TOKEN, "/identities/tokens.json"), "train": ("/train-token", TRAIN_TOKEN)}
WITH_THE_STORE_S_ROOT_KEY = {"s3", "s3-key"}
WITH_THE_DAEMON_S_KEY = frozenset({"bucket", "ckptd"})


def confined(tried: Project, with_key: frozenset[str] = WITH_THE_DAEMON_S_KEY) -> None:
    """Look at every container as the engine knows it, and at the daemon's from within.

    `with_key`: the services that have the key of the bucket.
    """
    containers = tried.containers()
    for container in containers:
        name, host, config = service(container), container["HostConfig"], container["Config"]
        expect(config["User"] == "7070:7070", f"{name} runs as {config['User'] or 'root'}")
        expect(host["ReadonlyRootfs"], f"{name} may write to its root")
        expect(host["CapDrop"] == ["ALL"] and not host["CapAdd"], f"{name} has capabilities")
        expect(host["SecurityOpt"] == ["no-new-privileges:true"], f"{name} may gain privileges")
        expect(not host["Privileged"] and not host["PortBindings"], f"{name} is privileged, or has a port")
        expect(host["Memory"] > 0 and host["PidsLimit"] > 0 and host["NanoCpus"] > 0, f"{name} has no limits")
        volumes = {mount["Name"] for mount in container["Mounts"] if mount["Type"] == "volume"}
        nameless = [v for v in volumes if not v.startswith(tried.environment["COMPOSE_PROJECT_NAME"])]
        expect(not nameless or config["Image"] != "ckptd", f"{name} has a volume without a name: {nameless}")
        names = {line.partition("=")[0] for line in config["Env"]}
        root = {n for n in names if "ROOT_USER" in n or "ROOT_PASSWORD" in n}
        expect(not root or name in WITH_THE_STORE_S_ROOT_KEY, f"{name} has the key of the store's administrator")
        has_key = any(n.startswith("AWS_SECRET") for n in names)
        expect(has_key == (name in with_key), f"{name} has the daemon's key, or the daemon lacks it")
    within = inside(
        tried, "ckptd", "grep -E '^(Uid|CapEff|CapBnd|NoNewPrivs):' /proc/1/status; touch /x /opt/ckptd/x 2>&1"
    )
    expect(
        within.count("0000000000000000") == 2 and "NoNewPrivs:\t1" in within, f"the daemon is not confined: {within}"
    )
    expect("Uid:\t7070\t7070" in within and within.count("Read-only file system") == 2, f"not confined: {within}")
    say(
        f"{len(containers)} containers: user 7070, no capabilities, no new privileges, read-only roots, limits, no port"
    )


def secrets_are_hidden(tried: Project) -> None:
    """Look at the modes of the secrets, and for those that a container should not have."""
    for name, (directory, *files) in SECRETS.items():
        modes = inside(tried, name, f"stat -c '%a %u' {directory} {' '.join(files)}").splitlines()
        expect(modes == ["700 7070"] + ["600 7070"] * len(files), f"modes of {directory} in {name}: {modes}")
    job = inside(
        tried, "train", "ls -A /identities; ls -A /sys/class/net; env | grep -cE 'AWS_|S3_|ROOT_'; true"
    ).split()
    expect(job == ["lo", "0"], f"the job has a secret or a network of others: {job}")
    say("secrets have mode 0600 in directories of 0700; the job has its own token, no key and no network")


def worker_may_only_save(tried: Project, run: str) -> None:
    """Call what the role `save` does not contain with the worker's token: what it does can all be undone."""
    before = tried.steps(run)
    oldest, older, latest = (f"{run}/model.ckpt-{step}" for step in before[-3:])
    refused = [
        f"rm {oldest} --for-good", f"rm {latest} --even-latest", f"unpin {oldest}", f"undelete {oldest}",
        f"prune {run} --keep 1", f"repair {run}", f"evict {run}", "ls other/run",
    ]  # fmt: skip
    allowed = [f"ls {run}", f"latest {run}", f"verify {run}", f"rm {oldest}"]
    below_the_floor = f"rm {older}"
    wanted = {**dict.fromkeys(refused, NOT_PERMITTED), **dict.fromkeys(allowed, 0), below_the_floor: NOT_PERMITTED}
    told = inside(tried, "train", "; ".join(asked(command, TRAIN_TOKEN) for command in wanted)).splitlines()
    for (command, code), answer in zip(wanted.items(), told, strict=True):
        expect(answer.split()[0] == str(code), f"`ckptd {command}` by a worker: {answer}")
    back = inside(tried, "ckptd", asked(f"undelete {oldest}", OPERATOR_TOKEN)).strip()
    expect(back == "0", f"`ckptd undelete` by the operator: {back}")
    expect(tried.steps(run) == before, f"a worker's token changed {run}: {before} became {tried.steps(run)}")
    say(f"a worker's token was refused {len(refused) + 1} calls; what it deleted, the operator brought back")


def asked(command: str, token_file: str) -> str:
    """Return a line of shell that runs a command of ckptd, and prints its exit code and what it says of an error."""
    return (
        f"ckptd {command} --address {SOCKET} --token-file {token_file} >/dev/null 2>/tmp/why; echo $? $(cat /tmp/why)"
    )


def daemon_s_key_opens_its_bucket_only(tried: Project) -> None:
    """Try with the daemon's key what the daemon has no need of."""
    program = Path(__file__).with_name("store_rights.py").read_text()
    told = json.loads(tried.compose("exec", "-T", "ckptd", "python3", "-c", program, tried.root))
    permitted = sorted(what for what, code in told.items() if code not in ("AccessDenied", "TooManyBuckets"))
    expect(not permitted, f"the daemon's key may do what it need not, or answers are unclear: {told}")
    say(f"the daemon's key is refused: {', '.join(told)}")


def inside(tried: Project, name: str, script: str) -> str:
    """Run a line of shell in the daemon's container, or in a new one of another service; return what it says."""
    if name == "ckptd":
        return tried.compose("exec", "-T", name, "sh", "-c", f"{script}; true")
    new = ("--profile", "*", "run", "--rm", "--no-deps", "-T", "--entrypoint", "sh", name)
    return tried.compose(*new, "-c", f"{script}; true")


def service(container: dict[str, Any]) -> str:
    return str(container["Config"]["Labels"]["com.docker.compose.service"])
