"""`/metrics` of real processes: what really happens to saves, checkpoints and callers moves it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics

from ckptd import Checkpointer
from ckptd.cli.token import command as token_command
from ckptd.errors import CkptdError, NotPermittedError
from tests.fakes.waiting import eventually
from tests.unit.daemon.test_web import get
from tests.unit.metrics.test_figures import values_of

WAIT_S = 60
PAGE = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text("utf-8")
FIGURES_PAGE, _, QUERIES = PAGE.partition("\n## Figures")[2].partition("\n## Queries")
CLOSED = {"outcome", "phase", "part", "path", "verdict", "reason", "where", "op", "cause", "state"}
"""Labels of which the page tells each value."""
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def figures(daemon, **headers):
    """Return name and labels without their names → value."""
    status, text = get(daemon, "/metrics", **headers)
    assert status == 200, text
    return {
        (sample.name.removeprefix("ckptd_"), *values_of(sample.labels)): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def save(ckpt, step, **more):
    return ckpt.save(step, {"w": np.ones(1000, np.float32)}, **more).result(WAIT_S)


def test_saves_that_succeed_and_fail_retention_and_what_is_stored(serve, monkeypatch):
    monkeypatch.setenv("CKPTD_TRANSPORT", "stream")  # over shared memory a save may have ended before it is waited for
    daemon = serve("--http", "127.0.0.1:0", "--declare-timeout-s", "0.5").ready()
    # It is looked at by a thread of its own, and not a number until then.
    eventually(lambda: figures(daemon)[("store_free_bytes", "file")] > 0, daemon.log.read_text)
    assert figures(daemon)[("saves_total", "_other", "committed")] == 0
    with Checkpointer(daemon.listening[0], "runs/a", rank=0, world_size=1, max_to_keep=2) as ckpt:
        for step in (1, 2, 3):
            save(ckpt, step)
        eventually(lambda: figures(daemon)[("deleted_bytes_total", "runs/a")] == 4000, daemon.log.read_text)
        now = figures(daemon)
    assert now[("saves_total", "runs/a", "committed")] == 3
    assert now[("save_duration_seconds_count", "runs/a")] == 3
    phases = {key[1]: value for key, value in now.items() if key[0] == "save_phase_duration_seconds_count"}
    assert phases == dict.fromkeys(("declare", "plan", "move", "seal", "commit", "publish"), 3)
    spent = sum(value for key, value in now.items() if key[0] == "save_phase_duration_seconds_sum")
    assert 0 < spent == pytest.approx(now[("save_duration_seconds_sum", "runs/a")], rel=1e-6)
    assert now[("received_bytes_total", "shm")] + now[("received_bytes_total", "grpc")] == 12000
    assert now[("written_bytes_total", "file")] == 12000
    assert now[("retention_decisions_total", "drop", "too_many")] == 1
    kept = {key[2]: value for key, value in now.items() if key[:2] == ("retention_decisions_total", "keep") and value}
    assert kept == {"latest": 3, "newest": 2}
    for operation in ("write", "fsync", "rename", "delete"):
        assert now[("store_operations_total", operation, "ok", "file")] > 0
        assert now[("store_operation_duration_seconds_count", operation, "file")] > 0
    stalls = {key[1]: value for key, value in now.items() if key[0] == "client_stall_seconds_count"}
    assert stalls == dict.fromkeys(("waiting", "preparing", "copying", "declaring"), 3)
    assert now[("client_stall_seconds_sum", "copying")] > 0
    assert now[("last_committed_step", "runs/a")] == 3
    assert now[("checkpoints", "runs/a", "kept")] == 2
    assert now[("checkpoint_bytes", "runs/a", "kept")] == 8000
    # One rank of two declares: the other never does.
    with (
        Checkpointer(daemon.listening[0], "runs/b", rank=0, world_size=2) as alone,
        Checkpointer(daemon.listening[0], "runs/b", rank=1, world_size=2),
    ):
        with pytest.raises(CkptdError):
            save(alone, 1)
        after = figures(daemon)
    assert after[("saves_total", "runs/b", "aborted")] == 1
    assert after[("saves_total", "runs/b", "committed")] == 0
    assert after[("written_bytes_total", "file")] == 12000
    assert after[("rank_lag_seconds_count",)] == 0


def test_the_store_that_fails_a_save_and_the_rank_that_is_waited_for(serve):
    daemon = serve("--http", "127.0.0.1:0").ready()
    with Checkpointer(daemon.listening[0], "runs/a", rank=0, world_size=1) as ckpt:
        save(ckpt, 1)
        shutil.rmtree(daemon.root / "runs" / "a")
        (daemon.root / "runs" / "a").write_text("no directory any more")
        with pytest.raises(CkptdError):
            save(ckpt, 2)
    now = figures(daemon)
    assert now[("saves_total", "runs/a", "failed")] + now[("saves_total", "runs/a", "aborted")] == 1
    assert now[("saves_total", "runs/a", "committed")] == 1
    with (
        Checkpointer(daemon.listening[0], "runs/b", rank=0, world_size=2) as first,
        Checkpointer(daemon.listening[0], "runs/b", rank=1, world_size=2) as second,
    ):
        pending = first.save(1, {"w": np.ones(1000, np.float32)})
        eventually(lambda: figures(daemon).get(("ranks_waiting", "runs/b", "declare")) == 1, daemon.log.read_text)
        now = figures(daemon)
        assert now[("saves_in_progress", "runs/b")] == 1
        assert now[("oldest_save_in_progress_start_timestamp_seconds", "runs/b")] > 1e9
        second.save(1, {"v": np.ones(1000, np.float32)}).result(WAIT_S)
        pending.result(WAIT_S)
        now = figures(daemon)
    assert now[("saves_total", "runs/b", "committed")] == 1
    assert now[("rank_lag_seconds_count",)] == 1
    assert ("oldest_save_in_progress_start_timestamp_seconds", "runs/b") not in now


def test_a_role_sees_its_runs_and_the_save_ids_of_no_others(serve, tmp_path):
    tokens, policy = tmp_path / "tokens.json", tmp_path / "policy.toml"

    def new(name):
        made = CliRunner().invoke(token_command, ["new", name, "--tokens", str(tokens)], catch_exceptions=False)
        return made.stdout.split()[-1]

    shown = {name: new(name) for name in ("prometheus", "vision", "audio", "scraper")}
    grants = [
        ("prometheus", "**", "admin"),
        ("vision", "vision/**", "save"),
        ("audio", "audio/**", "save"),
        ("scraper", "**", "metrics"),
    ]
    policy.write_text(
        "".join(f'[[grant]]\nto = "token:{to}"\nruns = "{runs}"\nrole = "{role}"\n' for to, runs, role in grants)
    )
    daemon = serve("--http", "127.0.0.1:0", "--tokens", str(tokens), "--policy", str(policy)).ready()
    assert get(daemon, "/metrics")[0] == 401
    ids = {}
    for team in ("vision", "audio"):
        with Checkpointer(daemon.listening[0], f"{team}/a", rank=0, world_size=1, token=shown[team]) as ckpt:
            ids[team] = save(ckpt, 1).save_id
    bearer = {name: {"Authorization": f"Bearer {token}", "Accept": OPENMETRICS} for name, token in shown.items()}
    texts = {name: get(daemon, "/metrics", **headers)[1] for name, headers in bearer.items()}
    for text in texts.values():
        list(openmetrics.text_string_to_metric_families(text))
    assert "vision/a" in texts["vision"]
    assert ids["vision"] in texts["vision"]
    for word in ("audio/a", ids["audio"]):
        assert word not in texts["vision"]
        assert word in texts["prometheus"]
        assert word in texts["scraper"]
    assert 'run="_other"' in texts["scraper"]
    with pytest.raises(NotPermittedError, match="may not read"):
        Checkpointer(daemon.listening[0], "audio/a", rank=0, world_size=1, token=shown["scraper"]).restore()
    now = figures(daemon, Authorization=f"Bearer {shown['prometheus']}")
    assert now[("auth_denied_total", "unauthenticated")] == 1
    with (
        pytest.raises(CkptdError),
        Checkpointer(daemon.listening[0], "audio/a", rank=0, world_size=1, token=shown["vision"]) as refused,
    ):
        save(refused, 2)
    eventually(
        lambda: figures(daemon, **bearer["prometheus"] | {"Accept": ""})[("auth_denied_total", "forbidden")] >= 1,
        daemon.log.read_text,
    )


def test_what_streams_wait_for_and_what_watchers_and_readers_are_sent(serve, monkeypatch):
    monkeypatch.setenv("CKPTD_TRANSPORT", "stream")
    daemon = serve("--http", "127.0.0.1:0").ready()
    before = figures(daemon)
    assert {key[1]: value for key, value in before.items() if key[0] == "flow_blocked_seconds_total"} == dict.fromkeys(
        ("memory", "disk", "network"), 0
    )
    with Checkpointer(daemon.listening[0], "runs/a", rank=0, world_size=1) as ckpt:
        save(ckpt, 1)
        news = iter(ckpt.watch())
        next(news)
        eventually(lambda: figures(daemon)[("watchers",)] == 1, daemon.log.read_text)
        save(ckpt, 2)
        next(news)
        eventually(lambda: figures(daemon)[("watch_delivery_seconds_count",)] >= 1, daemon.log.read_text)
        news.close()
        now = figures(daemon)
    write = "ckptd.wire.v1.SaveService/Write"
    assert now[("grpc_server_call_started_total", write)] >= 2
    eventually(  # a stream may end after its save
        lambda: (
            sum(
                value
                for key, value in figures(daemon).items()
                if key[:2] == ("grpc_server_call_duration_seconds_count", write)
            )
            >= 2
        ),
        daemon.log.read_text,
    )
    assert now[("grpc_server_call_started_total", "ckptd.wire.v1.AdminService/Evict")] == 0
    assert now[("flow_blocked_seconds_total", "network")] > 0
    eventually(lambda: figures(daemon)[("watchers",)] == 0, daemon.log.read_text)


def test_what_ranks_restore_by_the_way_it_came(serve, monkeypatch):
    daemon = serve("--http", "127.0.0.1:0").ready()

    def restored():
        return {key[1]: value for key, value in figures(daemon).items() if key[0] == "restored_bytes_total"}

    assert restored() == {"shm": 0, "grpc": 0, "direct": 0}
    with Checkpointer(daemon.listening[0], "runs/a", rank=0, world_size=1) as ckpt:
        save(ckpt, 1)
        save(ckpt, 2)
        ckpt.restore(step=2)
        eventually(lambda: sum(restored().values()) == 4000, daemon.log.read_text)
    monkeypatch.setenv("CKPTD_TRANSPORT", "stream")
    (daemon.root / ".ckptd" / "id").unlink()  # it tells a client that it sees the daemon's own root
    with Checkpointer(daemon.listening[0], "runs/a", rank=0, world_size=1) as again:
        again.restore(step=1)
        eventually(lambda: restored()["grpc"] == 4000, lambda: str(restored()))
    now = figures(daemon)
    assert now[("restore_duration_seconds_count",)] == 2
    assert now[("restore_duration_seconds_sum",)] > 0


def test_what_a_daemon_exports_is_what_the_page_of_metrics_says(serve):
    daemon = serve("--http", "127.0.0.1:0").ready()
    with Checkpointer(daemon.listening[0], "runs/a", rank=0, world_size=1) as ckpt:
        save(ckpt, 1)
        families = list(parser.text_string_to_metric_families(get(daemon, "/metrics")[1]))
    told = set(re.findall(r"`((?:ckptd|grpc)_\w+)`", FIGURES_PAGE))
    shown = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    ours = {name for name in shown if name.startswith(("ckptd_", "grpc_"))}
    # Those that are only there while there is something to tell.
    rare = {"ckptd_oldest_save_in_progress_start_timestamp_seconds", "ckptd_last_verified_timestamp_seconds"}
    assert ours | rare == told | rare
    samples = [sample for family in families for sample in family.samples]
    values = {sample.labels[name] for sample in samples for name in CLOSED & set(sample.labels)}
    assert not [value for value in values if f"`{value}`" not in FIGURES_PAGE]
    queried = set(re.findall(r"\b(?:ckptd|grpc_server)_\w+", QUERIES.partition("\n## ")[0]))
    assert queried
    assert queried <= {sample.name for sample in samples} | rare


@pytest.mark.campaign
def test_promtool_finds_nothing_to_say(serve):
    daemon = serve("--http", "127.0.0.1:0").ready()
    with Checkpointer(daemon.listening[0], "runs/a", rank=0, world_size=1) as ckpt:
        save(ckpt, 1)
    text = get(daemon, "/metrics")[1]
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, ""), json.dumps(checked.stderr)
