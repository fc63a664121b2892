"""What a trial of the compose file needs around it: a container engine, and images where no registry can be reached."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PYTHON_IMAGE = "ckptd-trial/python"
CEPH_IMAGE = "ckptd-trial/ceph"

_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
_ENGINE_START_S = 60.0
_PULL_S = 300.0


class CannotTryError(Exception):
    """This host cannot try the compose file; the message says why, in one line."""


def say(line: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {line}", flush=True)


def call(command: Sequence[str], *, timeout_s: float, env: dict[str, str] | None = None) -> str:
    """Run a command and return what it says on stdout; what it says is shown when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=env, check=False)
    except subprocess.TimeoutExpired as e:
        raise RuntimeError(f"{' '.join(command)} has not ended in {timeout_s:g} s") from e
    if done.returncode:
        sys.stderr.write(f"{done.stdout[-4000:]}{done.stderr[-4000:]}")
        raise RuntimeError(f"{' '.join(command)} ended with exit code {done.returncode}")
    return done.stdout


def succeeds(command: Sequence[str], *, timeout_s: float = 30.0) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired, FileNotFoundError):
        return subprocess.run(command, capture_output=True, timeout=timeout_s, check=False).returncode == 0
    return False


@contextlib.contextmanager
def engine() -> Iterator[None]:
    """Have an engine that answers: the one that runs, or one of our own that ends with the context.

    Raises:
        CannotTryError: when there is none and none can be started.
    """
    if shutil.which("docker") is None:
        raise CannotTryError("docker is not installed here")
    if not succeeds(["docker", "compose", "version"]):
        raise CannotTryError("docker has no `compose` here")
    if succeeds(["docker", "info"]):
        yield
        return
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        raise CannotTryError("no container engine answers here, and only root could start one")
    with tempfile.TemporaryDirectory(prefix="ckptd-engine-", ignore_cleanup_errors=True) as place, _own_engine(place):
        yield


@contextlib.contextmanager
def _own_engine(place: str) -> Iterator[None]:
    host = f"unix://{place}/docker.sock"
    command = ["dockerd", "--host", host, "--data-root", f"{place}/data", "--exec-root", f"{place}/exec"]
    with Path(f"{place}/log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--pidfile", f"{place}/pid"], stdout=log, stderr=log, start_new_session=True
        )
    before = os.environ.get("DOCKER_HOST")
    os.environ["DOCKER_HOST"] = host
    try:
        deadline = time.monotonic() + _ENGINE_START_S
        while not succeeds(["docker", "info"]):
            if process.poll() is not None or time.monotonic() > deadline:
                last = Path(f"{place}/log").read_text("utf-8", "replace").strip().splitlines()[-1:]
                raise CannotTryError(f"the container engine does not start here: {' '.join(last)}")
            time.sleep(0.2)
        say("started a container engine")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(30)
        os.environ.pop("DOCKER_HOST")
        if before is not None:
            os.environ["DOCKER_HOST"] = before


def has_image(name: str) -> bool:
    return succeeds(["docker", "image", "inspect", name])


def can_pull(name: str) -> bool:
    """Say whether an image is here or can be had from its registry."""
    return has_image(name) or succeeds(["docker", "pull", "--quiet", name], timeout_s=_PULL_S)


def make_python_image() -> str:
    """Make a base image from Debian's packages, for where the public one cannot be had; return its name.

    What takes a minute, the tree of packages, is kept for the next time in the user's cache.
    """
    if has_image(PYTHON_IMAGE):
        return PYTHON_IMAGE
    tree = _cache() / "python-bookworm"
    if not (tree / ".ready").exists():
        if os.geteuid() != 0 or shutil.which("debootstrap") is None:
            raise CannotTryError("the base image cannot be pulled, and there is no debootstrap to make one")
        say("no registry answers: making a base image from Debian's packages")
        shutil.rmtree(tree, ignore_errors=True)
        packages = "--include=python3,python3-venv,python3-pip,ca-certificates"
        call(["debootstrap", "--variant=minbase", packages, "bookworm", str(tree)], timeout_s=600)
        if Path(_AUTHORITIES).exists():  # the build must trust the authorities of this host
            shutil.copyfile(_AUTHORITIES, tree / _AUTHORITIES.lstrip("/"))
        for marker in tree.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
            marker.unlink()  # the public image has none
        (tree / ".ready").touch()
    trust = [f"ENV {name}={_AUTHORITIES}" for name in ("PIP_CERT", "SSL_CERT_FILE")]
    return _import(tree, PYTHON_IMAGE, ['CMD ["python3"]', *trust])


def make_ceph_image() -> str:
    """Make an image of the Ceph that the tests install; return its name."""
    if has_image(CEPH_IMAGE):
        return CEPH_IMAGE
    sys.path.insert(0, str(REPOSITORY))
    from tests.services import ceph

    try:
        tree = ceph.install()
    except ceph.CannotRunError as e:
        raise CannotTryError(f"no registry answers, and Ceph cannot be installed: {str(e).splitlines()[0]}") from e
    return _import(tree, CEPH_IMAGE, [])


def _cache() -> Path:
    place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ckptd-tests"
    place.mkdir(parents=True, exist_ok=True)
    return place


def _import(tree: Path, name: str, changes: Sequence[str]) -> str:
    left_out = [f"--exclude=./{path}" for path in ("proc/*", "dev/*", "var/cache/apt/*", "var/lib/apt/lists/*")]
    change = [word for line in (f"ENV {_PATH}", *changes) for word in ("--change", line)]
    with subprocess.Popen(["tar", "-C", str(tree), *left_out, "-c", "."], stdout=subprocess.PIPE) as tar:
        done = subprocess.run(
            ["docker", "import", *change, "-", name], stdin=tar.stdout, capture_output=True, check=False
        )
    if done.returncode or tar.returncode:
        raise RuntimeError(f"{name} cannot be made of {tree}: {done.stderr.decode('utf-8', 'replace').strip()}")
    return name
