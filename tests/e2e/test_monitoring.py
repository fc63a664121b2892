"""`deploy/monitoring`: rules over metrics that exist, each with a runbook, and judged by Prometheus' own tool."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.identity import SaveRef
from ckptd.engine.saves.session import Phase
from ckptd.engine.saves.views import RunView, SaveView
from ckptd.metrics.exposition import render
from ckptd.metrics.figures import Figures
from ckptd.metrics.seen import SeenFigures

REPOSITORY = Path(__file__).resolve().parents[2]
MONITORING = REPOSITORY / "deploy/monitoring"
RULES = [rule for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
RUNBOOK = (REPOSITORY / "docs/alerts.md").read_text()
OF_PROCESS = {"ckptd_store_free_bytes", "ckptd_arena_bytes", "ckptd_watchers"}
"""What `ckptd.daemon.measuring` adds; see `tests/unit/daemon/test_metrics.py`."""


def shown() -> set[str]:
    figures = Figures(version="1", grpc="1", role="whole", store="file")
    latest = Checkpoint("/r/m-6", 6, 100, 1, 990.0, verified_at=995.0)
    save = SaveView(SaveRef("r", 1, 7), Phase.FILLING, 0, 0, 12.0, (), (1, 3), frozenset())
    view = RunView("r", 1, 2, (0, 1), (save,), latest, 1, "", checkpoints=(latest,))
    figures.registry.register(SeenFigures(lambda: [view], figures.runs))
    text = render(figures.registry, "", lambda run: True, sees_all=True)[0].decode()
    return {re.split(r"[ {]", line)[0] for line in text.splitlines() if line.startswith("ckptd_")} | OF_PROCESS


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_looks_at_metrics_that_exist_and_leads_to_what_to_do(rule):
    used = set(re.findall(r"\bckptd_\w+", rule["expr"]))
    assert used <= shown()
    assert rule["annotations"]["runbook"] == f"docs/alerts.md#{rule['alert'].lower()}"
    assert f"\n## {rule['alert']}\n" in RUNBOOK
    assert rule["labels"]["severity"] in ("page", "warn", "info")


def test_no_runbook_is_of_an_alert_that_is_gone():
    assert re.findall(r"^## (\w+)$", RUNBOOK, re.MULTILINE) == [rule["alert"] for rule in RULES]


@pytest.mark.campaign
@pytest.mark.parametrize("command", [("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")])
def test_promtool_agrees(command):
    said = subprocess.run(["promtool", *command], cwd=MONITORING, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr
