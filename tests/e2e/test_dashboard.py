"""The dashboard and the alerts with a real Prometheus, beside a real daemon that saves, and that is broken."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request

import numpy as np
import pytest
import yaml

from ckptd import Checkpointer
from ckptd.errors import CkptdError
from tests.e2e.test_packaging import REPOSITORY
from tests.fakes.waiting import eventually
from tests.unit.daemon.conftest import Process

MONITORING = REPOSITORY / "deploy" / "monitoring"
DASHBOARD = json.loads((MONITORING / "grafana" / "ckptd.json").read_text())
COMPOSE = yaml.safe_load((REPOSITORY / "deploy" / "compose.monitoring.yml").read_text())
RULES = (MONITORING / "alerts.yml").read_text()
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def test_the_dashboard_is_what_its_program_writes():
    program = MONITORING / "dashboard.py"
    said = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout == (MONITORING / "grafana" / "ckptd.json").read_text()


def test_every_panel_says_what_it_means_and_none_covers_another():
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert all(panel["description"].endswith(".") for panel in PANELS)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_services_are_confined_pinned_and_get_files_that_exist():
    for name in ("prometheus", "grafana"):
        service = COMPOSE["services"][name]
        assert service["profiles"] == ["monitoring"]
        assert (service["read_only"], service["cap_drop"], service["user"]) == (True, ["ALL"], "7070:7070")
        assert re.fullmatch(r"\$\{\w+_IMAGE:-[^@}]+@sha256:[0-9a-f]{64}\}", service["image"])
        assert {"mem_limit", "cpus", "pids_limit"} <= set(service)
        for volume in service["volumes"]:
            path = volume.split(":")[0]
            assert path in COMPOSE["volumes"] or (REPOSITORY / path).is_file()
    assert COMPOSE["services"]["grafana"]["ports"] == ["127.0.0.1:${GRAFANA_PORT:-3000}:3000"]
    assert "ports" not in COMPOSE["services"]["prometheus"]
    policy = (REPOSITORY / "deploy" / "policy.toml").read_text()
    assert 'to = "token:prometheus"' in policy


class Prometheus:
    """The program of Debian's package `prometheus`, which looks every second."""

    def __init__(self, directory, target, rules):
        directory.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        configuration = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["alerts.yml"],
            "scrape_configs": [{"job_name": "ckptd", "static_configs": [{"targets": [target]}]}],
        }
        (directory / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        (directory / "alerts.yml").write_text(rules)
        program = shutil.which("prometheus")
        assert program, "install Debian's package prometheus"
        self.log = directory / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    program,
                    f"--config.file={directory}/prometheus.yml",
                    f"--storage.tsdb.path={directory}/data",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                ],
                stdout=log,
                stderr=log,
            )

    def get(self, path, **query):
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            if error.code == 503:
                return None
            raise AssertionError(error.read().decode()) from error
        except OSError:
            return None  # it is not up yet

    def query(self, expression):
        found = self.get("query", query=expression)
        return found["result"] if found else []

    def firing(self):
        return {each["labels"]["alertname"] for each in self.get("alerts")["alerts"] if each["state"] == "firing"}

    def end(self):
        self.process.terminate()
        self.process.wait(60)


@pytest.fixture
def watched(tmp_path):
    """Return what starts a daemon and a Prometheus that looks at it."""
    started = []

    def start(*flags, rules=RULES):
        daemon = Process(tmp_path, "--http", "127.0.0.1:0", *flags)
        started.append(daemon)
        http = json.loads(daemon.ready().ready_file.read_text())["http"]
        prometheus = Prometheus(tmp_path / "prometheus", http.split("://")[-1], rules)
        started.append(prometheus)
        eventually(lambda: prometheus.query("ckptd_build_info"), prometheus.log.read_text)
        return daemon, prometheus

    yield start
    for each in reversed(started):
        each.end()


def as_grafana_asks(expression):
    return expression.replace("$__rate_interval", "1m").replace("$__interval", "1m").replace("$run", ".*")


@pytest.mark.campaign
def test_every_panel_has_data_beside_a_daemon_that_saves(watched):
    daemon, prometheus = watched("--scrub-bytes-per-s", "100000000", "--scrub-every-s", "1")
    address = daemon.listening[0]
    with (
        Checkpointer(address, "runs/a", rank=0, world_size=2, max_to_keep=2) as first,
        Checkpointer(address, "runs/a", rank=1, world_size=2, max_to_keep=2) as second,
    ):
        steps = iter(range(1, 1_000_000))

        def saw_all():
            step = next(steps)
            pending = [each.save(step, {f"w{each.rank}": np.ones(1000, np.float32)}) for each in (first, second)]
            assert all(each.result(60) for each in pending)
            return not empty()

        def empty():
            return [
                (panel["title"], target["expr"])
                for panel in PANELS
                for target in panel["targets"]
                if not any(each["value"][1] != "NaN" for each in prometheus.query(as_grafana_asks(target["expr"])))
            ]

        eventually(saw_all, empty)
    assert prometheus.query(as_grafana_asks(DASHBOARD["annotations"]["list"][0]["expr"]))


QUICKER = {r"for: \d+m": "for: 0s", r"\b1800\b": "2", r"3 \* 21600": "3 * 1", r"> 600\b": "> 2", r"7 \* 86400": "2"}
"""The rules, with the times that a test can wait for."""


@pytest.mark.campaign
def test_each_alert_fires_when_what_it_is_for_is_broken(watched, tmp_path):
    rules = RULES
    for slow, quick in QUICKER.items():
        rules, found = re.subn(slow, quick, rules)
        assert found
    names = {rule["alert"] for group in yaml.safe_load(rules)["groups"] for rule in group["rules"]}
    daemon, prometheus = watched("--scrub-bytes-per-s", "100000000", "--scrub-every-s", "1", rules=rules)
    address = daemon.listening[0]

    def fires(name, why=lambda: ""):
        eventually(lambda: name in prometheus.firing(), lambda: f"{name}: {prometheus.firing()} {why()}")
        names.discard(name)

    with Checkpointer(address, "runs/a", rank=0, world_size=1) as checkpointer:
        for step in range(1, 4):
            checkpointer.save(step, {"w": np.ones(100_000, np.float32)}).result(60)
            eventually(lambda step=step: prometheus.query(f'ckptd_last_committed_step{{run="runs/a"}} == {step}'))
    fires("CkptdSaveIsLate")
    # A rank that never comes.
    alone = Checkpointer(address, "runs/b", rank=0, world_size=2, timeout_s=20)
    pending = alone.save(1, {"w": [1.0]})
    fires("CkptdSaveHangs")
    assert isinstance(pending.exception(60), CkptdError)
    alone.close()
    fires("CkptdSavesFail")
    # The daemon stands still for a while, and goes on.
    os.kill(daemon.process.pid, signal.SIGSTOP)
    threading.Timer(4.0, os.kill, (daemon.process.pid, signal.SIGCONT)).start()
    fires("CkptdEventLoopIsSlow")
    # A shard with other bytes: the scrub finds it.
    fires("CkptdNotVerified")
    shard = next((daemon.root / "runs" / "a").glob("model.ckpt-3.data*"))
    with shard.open("r+b") as file:
        file.write(b"wrong")
    fires("CkptdCorruption", daemon.log.read_text)
    os.kill(daemon.process.pid, signal.SIGKILL)
    fires("CkptdDown")
    assert names == {"CkptdDiskIsNearlyFull", "CkptdRunTakenOver"}  # promtool judges these: `alerts_test.yml`
