"""A project of docker compose, brought up for a trial and taken down at its end."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
import time
from collections.abc import Iterator, Sequence

from trial.engine import REPOSITORY, can_pull, make_ceph_image, make_python_image, say
from trial.project import Project, expect


@contextlib.contextmanager
def brought_up(files: Sequence[str], services: Sequence[str], **settings: str) -> Iterator[Project]:
    """Bring services of compose files up, with a registry's images or our own; take all down at the end, volumes too.

    The first service is the daemon that owns the root. `settings` are for the compose files.
    """
    environment = {
        "COMPOSE_PROJECT_NAME": f"ckptd-trial-{os.getpid()}",
        "COMPOSE_FILE": ":".join(files),
        "COMPOSE_PROFILES": "",
        "S3_ACCESS_KEY": secrets.token_hex(8),
        "S3_SECRET_KEY": secrets.token_hex(16),
        "S3_ROOT_USER": secrets.token_hex(8),
        "S3_ROOT_PASSWORD": secrets.token_hex(16),
        **settings,
    }
    tried = Project("", environment)
    for override in sorted((REPOSITORY / "deploy").glob("compose.*.yml")):
        tried.compose("-f", "docker-compose.yml", "-f", str(override), "config", "--quiet")
    configured = json.loads(tried.compose("config", "--format", "json"))["services"]
    tried.root = configured["ckptd"]["environment"]["CKPTD_ROOT"]
    if not can_pull(configured["ckptd"]["build"]["args"]["PYTHON_IMAGE"]):
        environment["PYTHON_IMAGE"] = make_python_image()
    s3 = configured["s3"]["image"]
    if not can_pull(s3):
        s3 = environment["CEPH_IMAGE"] = make_ceph_image()
        environment["COMPOSE_FILE"] += ":deploy/compose.ceph.yml"
    tried.compose("build", timeout_s=600)
    try:
        began = time.monotonic()
        tried.compose("up", "--detach", "--wait", "--wait-timeout", "120", *services, timeout_s=180)
        say(
            f"{', '.join(services)} and S3 ({s3}) are healthy after {time.monotonic() - began:.1f} s; the image was "
            "built before"
        )
        yield tried
    except RuntimeError:
        with contextlib.suppress(RuntimeError):
            sys.stderr.write(tried.compose("logs", "--tail", "30"))
        raise
    finally:
        tried.compose("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "20")
        expect(not tried.volumes(), f"`down --volumes` left {tried.volumes()}")
