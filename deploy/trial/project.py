"""The project of docker compose that a trial brings up, and how the trial talks to it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from trial.engine import call

SOCKET = "unix:///run/ckptd/ckptd.sock"
OPERATOR_TOKEN, TRAIN_TOKEN = "/identities/operator.token", "/train-token/token"


def expect(holds: bool, otherwise: str) -> None:
    """End the trial unless a promise was kept."""
    if not holds:
        raise SystemExit(f"a promise was broken: {otherwise}")


@dataclass
class Project:
    """One project of docker compose, apart from whatever else runs on this engine."""

    root: str
    environment: dict[str, str]

    def compose(self, *arguments: str, timeout_s: float = 120.0) -> str:
        return call(["docker", "compose", *arguments], timeout_s=timeout_s, env={**os.environ, **self.environment})

    def ckptd(self, *arguments: str) -> str:
        """Run a command of ckptd in the daemon's container, which has the keys of the bucket."""
        return self.compose("exec", "-T", "ckptd", "ckptd", *arguments)

    def steps(self, run: str) -> list[int]:
        return [found["step"] for found in json.loads(self.ckptd("ls", "--json", f"{self.root}/{run}"))["checkpoints"]]

    def latest_step(self, run: str) -> int:
        latest = json.loads(self.ckptd("latest", "--json", f"{self.root}/{run}"))
        return int(latest["step"])

    def containers(self) -> list[dict[str, Any]]:
        """What the engine knows of each container of the project, those that have exited included."""
        names = self.compose("--profile", "*", "ps", "--all", "--quiet").split()
        found: list[dict[str, Any]] = json.loads(call(["docker", "inspect", *names], timeout_s=30.0))
        return found

    def volumes(self) -> list[str]:
        label = f"label=com.docker.compose.project={self.environment['COMPOSE_PROJECT_NAME']}"
        return call(["docker", "volume", "ls", "--quiet", "--filter", label], timeout_s=30.0).split()
