"""The dashboard as code: writes what Grafana is provisioned with.

    python3 deploy/monitoring/dashboard.py           prints it
    python3 deploy/monitoring/dashboard.py --write   writes grafana/ckptd.json

Each panel answers one question, and its description says what to do with the answer. A test compares the file with
what this prints, and evaluates every query with a real Prometheus.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("grafana") / "ckptd.json"
RUN = 'run=~"$run"'
RATE = "[$__rate_interval]"
SOURCE = {"type": "prometheus", "uid": "ckptd"}
WIDTH, HEIGHT = 24, 8


@dataclass(frozen=True)
class Panel:
    """One panel: its title, its queries by legend, what it means, its unit, and how it is drawn."""

    title: str
    queries: dict[str, str]
    about: str
    unit: str = "short"
    kind: str = "timeseries"
    is_stacked: bool = False
    red_above: float | None = None
    width: int = field(default=8)


def quantiles(metric: str, by: str = "", where: str = "") -> dict[str, str]:
    """Return queries for the median and the 95th percentile of a histogram."""
    labels = f"{by}, le" if by else "le"
    legend = f"{{{{{by}}}}} " if by else ""
    rates = f"sum by ({labels}) (rate({metric}_bucket{where}{RATE}))"
    return {f"{legend}p{percent}": f"histogram_quantile(0.{percent}, {rates})" for percent in (50, 95)}


ROWS: dict[str, list[Panel]] = {
    "Now": [
        Panel(
            "Age of the last commit",
            {"{{run}}": f"time() - max by (run) (ckptd_last_committed_timestamp_seconds{{{RUN}}})"},
            "How much work would be lost now. The alert CkptdSaveIsLate compares it with what is usual.",
            "s",
            "stat",
            width=6,
        ),
        Panel(
            "Saves in progress",
            {"{{run}}": f"sum by (run) (ckptd_saves_in_progress{{{RUN}}})"},
            "Two at once is usual for a run that saves often.",
            kind="stat",
            width=6,
        ),
        Panel(
            "Ranks that saves wait for",
            {"{{run}} {{phase}}": f"sum by (run, phase) (ckptd_ranks_waiting{{{RUN}}})"},
            "`ckptd status` names them, and what they owe.",
            kind="stat",
            width=6,
        ),
        Panel(
            "Wrong bytes",
            {"found": 'sum(ckptd_checksum_failures_total) + sum(ckptd_verify_tensors_total{outcome="corrupt"})'},
            "Must be 0. docs/alerts.md says what to do.",
            kind="stat",
            red_above=0.5,
            width=6,
        ),
        Panel(
            "Saves by outcome",
            {"{{outcome}}": f"sum by (outcome) (increase(ckptd_saves_total{{{RUN}}}{RATE}))"},
            "`aborted`: a rank was lost, late or gave up. `failed`: the store or the disk.",
            is_stacked=True,
            width=16,
        ),
        Panel(
            "Last committed step",
            {"{{run}}": f"max by (run) (ckptd_last_committed_step{{{RUN}}})"},
            "Progress that is safe.",
            width=8,
        ),
    ],
    "Stall and duration": [
        Panel(
            "How long training stands still for a save",
            quantiles("ckptd_client_stall_seconds", "part"),
            "Of all ranks, by cause. `waiting`: saves take longer than the time between them.",
            "s",
        ),
        Panel(
            "Duration of a save",
            quantiles("ckptd_save_duration_seconds", where=f"{{{RUN}}}"),
            "From the first rank's declaration until it is durable, behind training's back.",
            "s",
        ),
        Panel(
            "Where its time goes",
            {
                "{{phase}}": "sum by (phase) (rate(ckptd_save_phase_duration_seconds_sum"
                + RATE
                + ")) / ignoring (phase) "
                'group_left () clamp_min(sum(rate(ckptd_save_phase_duration_seconds_count{phase="publish"}'
                + RATE
                + ")), 1e-9)"
            },
            "Mean seconds of each phase. `declare`: ranks come at different times. `seal`: the disk or the bucket.",
            "s",
            is_stacked=True,
        ),
    ],
    "Throughput": [
        Panel(
            "Received",
            {"{{path}}": f"sum by (path) (rate(ckptd_received_bytes_total{RATE}))"},
            "Bytes of saves, over shared memory (`shm`) or the network (`grpc`).",
            "Bps",
        ),
        Panel(
            "Written",
            {"{{store}}": f"sum by (store) (rate(ckptd_written_bytes_total{RATE}))"},
            "Bytes of committed saves. Compare it with what the disk or the bucket can take.",
            "Bps",
        ),
        Panel(
            "Sent to readers",
            {"sent": f"sum(rate(ckptd_sent_bytes_total{RATE}))"},
            "What restores and readers get over gRPC. What they read from the store itself is not in it.",
            "Bps",
        ),
    ],
    "Why slow": [
        Panel(
            "Streams that could not go on",
            {"{{cause}}": f"sum by (cause) (rate(ckptd_flow_blocked_seconds_total{RATE}))"},
            "Seconds of waiting in each second, of all streams. The largest is what to mend.",
            "s",
            is_stacked=True,
            width=6,
        ),
        Panel(
            "Slowest rank behind the median",
            quantiles("ckptd_rank_lag_seconds"),
            "One rank that is slow makes all saves slow: `ckptd history RUN` names it.",
            "s",
            width=6,
        ),
        Panel(
            "Requests to the store",
            {
                "{{le}}": "sum by (le) (rate(ckptd_store_operation_duration_seconds_bucket"
                f'{{op=~"fsync|part|put"}}{RATE}))'
            },
            "How long `fsync` (a disk) and uploads (a bucket) take.",
            "s",
            "heatmap",
            width=6,
        ),
        Panel(
            "The event loop is late",
            {
                "p99": f"histogram_quantile(0.99, sum by (le) (rate(ckptd_event_loop_lag_seconds_bucket{RATE})))",
                "{{reason}} repeated/s": f"sum by (reason) (rate(ckptd_store_retries_total{RATE}))",
            },
            "The daemon's own health: above a second it has too few cores. And what was asked of the store again.",
            "s",
            width=6,
        ),
    ],
    "Storage": [
        Panel(
            "What checkpoints take",
            {"{{state}}": f"sum by (state) (ckptd_checkpoint_bytes{{{RUN}}})"},
            "`kept` by retention, `pinned` by people, `quarantined` because damage was found.",
            "bytes",
            is_stacked=True,
        ),
        Panel(
            "Free",
            {"{{store}}": "min by (store) (ckptd_store_free_bytes)"},
            "As the store says. A bucket has no end.",
            "bytes",
        ),
        Panel(
            "Days until it is full",
            {
                "days": "min(clamp_max("
                "ckptd_store_free_bytes / clamp_min(-deriv(ckptd_store_free_bytes[6h]), 1) / 86400, 3650))"
            },
            "If it goes on as in the last six hours; 3,650 is for ever.",
            kind="stat",
        ),
    ],
    "Retention and verify": [
        Panel(
            "Decisions",
            {"{{verdict}}: {{reason}}": "sum by (verdict, reason) (increase(ckptd_retention_decisions_total[1d])) > 0"},
            "Of the last day. `ckptd ls --why` has the verdict on each checkpoint.",
            kind="bargauge",
        ),
        Panel(
            "Deleted",
            {"{{run}}": f"sum by (run) (increase(ckptd_deleted_bytes_total{{{RUN}}}{RATE}))"},
            "Bytes that retention has freed.",
            "bytes",
        ),
        Panel(
            "Tensors read whole",
            {"{{outcome}}": "sum by (outcome) (increase(ckptd_verify_tensors_total[1d]))"},
            "By the daemon's scrub, and by `ckptd verify` through it, in the last day. `corrupt` must be 0.",
            kind="stat",
        ),
    ],
    "gRPC": [
        Panel(
            "Calls",
            {"{{grpc_method}}": f"sum by (grpc_method) (rate(grpc_server_call_started_total{RATE}))"},
            "By method. `Write`, `Watch` and `Attend` are streams.",
            "reqps",
        ),
        Panel(
            "Errors",
            {
                "{{grpc_status}}": "sum by (grpc_status) (rate(grpc_server_call_duration_seconds_count"
                f'{{grpc_status!="OK"}}{RATE})) or vector(0)',
                "refused: {{reason}}": f"sum by (reason) (rate(ckptd_auth_denied_total{RATE}))",
            },
            "And callers without an identity or a role.",
            "reqps",
        ),
        Panel(
            "Duration of calls",
            {
                "{{grpc_method}} p99": "histogram_quantile(0.99, sum by (grpc_method, le) "
                f'(rate(grpc_server_call_duration_seconds_bucket{{grpc_method!~".*(Write|Watch|Attend|Await)"}}{RATE})))'
            },
            "Without those that last as long as somebody waits.",
            "s",
        ),
    ],
}


def dashboard() -> dict[str, Any]:
    """Return Grafana's model of it. Source: Grafana's "Dashboard JSON model"."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        panels.append(
            {"type": "row", "title": title, "collapsed": False, "panels": [], **_place(len(panels), 0, y, WIDTH, 1)}
        )
        y, x = y + 1, 0
        for panel in row:
            if x + panel.width > WIDTH:
                x, y = 0, y + HEIGHT
            panels.append(_drawn(panel, _place(len(panels), x, y, panel.width, HEIGHT)))
            x += panel.width
        y += HEIGHT
    return {
        "uid": "ckptd",
        "title": "ckptd",
        "tags": ["ckptd"],
        "schemaVersion": 39,
        "editable": False,
        "graphTooltip": 1,  # one crosshair over all panels
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {
                    "name": "run",
                    "label": "run",
                    "type": "query",
                    "datasource": SOURCE,
                    "query": {"query": "label_values(ckptd_saves_total, run)", "refId": "run"},
                    "refresh": 2,
                    "sort": 1,
                    "multi": True,
                    "includeAll": True,
                    "current": {"text": ["All"], "value": ["$__all"]},
                }
            ]
        },
        "annotations": {
            "list": [
                {
                    "name": "commits",
                    "enable": True,
                    "datasource": SOURCE,
                    "expr": f"changes(ckptd_last_committed_timestamp_seconds{{{RUN}}}[$__interval]) > 0",
                    "step": "15s",
                    "titleFormat": "{{run}} was saved",
                    "iconColor": "green",
                }
            ]
        },
        "panels": panels,
    }


def _place(number: int, x: int, y: int, width: int, height: int) -> dict[str, Any]:
    return {"id": number + 1, "gridPos": {"x": x, "y": y, "w": width, "h": height}}


def _drawn(panel: Panel, place: dict[str, Any]) -> dict[str, Any]:
    is_heatmap = panel.kind == "heatmap"
    is_instant = panel.kind == "bargauge"
    targets = [
        {
            "refId": chr(ord("A") + number),
            "expr": expression,
            "legendFormat": legend,
            "format": "heatmap" if is_heatmap else "time_series",
            **({"instant": True} if is_instant else {}),
        }
        for number, (legend, expression) in enumerate(panel.queries.items())
    ]
    defaults: dict[str, Any] = {"unit": panel.unit}
    if panel.red_above is not None:
        steps = [{"color": "green", "value": None}, {"color": "red", "value": panel.red_above}]
        defaults |= {"thresholds": {"mode": "absolute", "steps": steps}}
    if panel.is_stacked:
        defaults |= {"custom": {"stacking": {"mode": "normal"}, "fillOpacity": 30}}
    options: dict[str, Any] = {}
    if panel.kind == "timeseries":
        options = {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    if is_heatmap:
        options = {"calculate": False, "yAxis": {"unit": panel.unit}, "color": {"scheme": "Oranges"}}
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        **place,
    }


def text() -> str:
    """Return the file's content."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        FILE.write_text(text(), encoding="utf-8")
    else:
        sys.stdout.write(text())
