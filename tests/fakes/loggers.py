"""W&B's and MLflow's clients as far as a recipe of docs/events.md calls them: each call is noted, nothing is sent.

Their names and arguments are those of the clients' documentation; nothing here shows that a server takes them.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any


class WandbRun:
    """What `wandb.init` returns."""

    def __init__(self, calls: list[Any]) -> None:
        self._calls = calls

    def define_metric(self, name: str, *, step_metric: str) -> None:
        self._calls.append(("define_metric", name, step_metric))

    def log(self, data: dict[str, float]) -> None:
        self._calls.append(("log", data))

    def alert(self, title: str, text: str) -> None:
        self._calls.append(("alert", title, text))


class MlflowClient:
    """`mlflow.MlflowClient`."""

    calls: list[Any]

    def log_metric(self, run_id: str, key: str, value: float, *, timestamp: int, step: int) -> None:
        self.calls.append((run_id, key, value, timestamp, step))


def install(modules: dict[str, ModuleType]) -> list[Any]:
    """Put modules `wandb` and `mlflow` there; return the list in which their calls are noted."""
    calls: list[Any] = []
    wandb, mlflow = ModuleType("wandb"), ModuleType("mlflow")
    wandb.init = lambda **_: WandbRun(calls)  # type: ignore[attr-defined]
    mlflow.MlflowClient = type("MlflowClient", (MlflowClient,), {"calls": calls})  # type: ignore[attr-defined]
    modules |= {"wandb": wandb, "mlflow": mlflow}
    return calls
