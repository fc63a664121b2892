"""The pages without a daemon and without a network: what is in them, who sees what, and that names are inert."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

import pytest
from starlette.testclient import TestClient

from ckptd.access.callers import Caller, UnauthenticatedError
from ckptd.access.visits import Visit, Visitor
from ckptd.engine.catalog.retention import Action, Verdict, Why
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.identity import SaveRef
from ckptd.engine.saves.session import Phase
from ckptd.engine.saves.views import RankView, RunView, SaveView
from ckptd.errors import NotFoundError
from ckptd.web.application import Application
from ckptd.web.assets import VENDORED, Assets
from ckptd.web.connection import CONNECTION
from ckptd.web.host_names import HostNames
from ckptd.web.recent import RecentPast
from ckptd.web.shell import POLICY
from ckptd.web.site import Site
from ckptd.web.source import About, Fact

NOW = 1.8e9
GOOD = {"Authorization": "Bearer good", "Accept": "text/html"}


def checkpoint(step, *, run="runs/a", pinned=False, age_s=0.0):
    return Checkpoint(f"/root/{run}/model.ckpt-{step}", step, 4_000_000, 2, NOW - age_s, 0.25, pinned)


def save(step, ranks, *, phase=Phase.FILLING, waiting_for=(), age_s=3.0, run="runs/a"):
    total, received = sum(each.size_bytes for each in ranks), sum(each.received_bytes for each in ranks)
    ref = SaveRef(run, 1, step, f"id-{step}", 1)
    return SaveView(ref, phase, total, received, age_s, tuple(waiting_for), (), frozenset(), 0, tuple(ranks))


def run(name, checkpoints=(), saves=(), **more):
    latest = checkpoints[-1] if checkpoints else None
    return RunView(name, 1, 4, (0, 1), tuple(saves), latest, len(checkpoints), "", checkpoints=checkpoints, **more)


@dataclass
class FakeSource:
    views: list[RunView] = field(default_factory=list)
    is_live: bool = True
    objects: None = None

    def about(self, *, sees_all):
        return About("1.0", "host-a", "/root", (Fact("store", "local disk"),))

    def names(self):
        return sorted(view.run for view in self.views)

    def runs(self):
        return self.views

    def run(self, name):
        for view in self.views:
            if view.run == name:
                return view
        raise NotFoundError("there is no such run")


class Porter:
    """Lets ``Bearer good`` see everything, ``Bearer a`` what is below ``runs/a``."""

    async def admit(self, visit: Visit) -> Visitor:
        if visit.authorization == "Bearer good":
            return Visitor(Caller("token", "good"), lambda name: True, True)
        if visit.authorization == "Bearer a":
            return Visitor(Caller("token", "a"), lambda name: name.startswith("runs/a"), False)
        raise UnauthenticatedError("the call shows no token")

    async def is_alive(self):
        return True

    def why_not_ready(self):
        return ""


class Origin:
    peer, is_encrypted, common_names, alternative_names = "ipv4:127.0.0.1:1", False, (), ()


def client_of(source, recent=None):
    site = Site(source, RecentPast() if recent is None else recent)
    application = Application(Porter(), HostNames([]), site.routes, site.shell)

    async def answer(scope, receive, send):
        await application({**scope, CONNECTION: Origin()}, receive, send)

    return TestClient(answer, base_url="http://127.0.0.1", raise_server_exceptions=False)


def test_a_page_needs_no_script_and_tells_what_is_kept_why_and_what_goes_next():
    kept = (checkpoint(100, pinned=True), checkpoint(200), checkpoint(300))
    verdicts = (
        Verdict(kept[0].prefix, Action.KEEP, "it is pinned", Why.PINNED),
        Verdict(kept[1].prefix, Action.DROP, "older than the newest 1", Why.TOO_MANY),
        Verdict(kept[2].prefix, Action.KEEP, "one of the newest 1", Why.NEWEST),
    )
    page = client_of(FakeSource([run("runs/a", kept, foreseen=verdicts)])).get("/", headers=GOOD)
    assert (page.status_code, page.headers["content-security-policy"]) == (200, POLICY)
    for told in ("it is pinned", "goes with the next save: older than the newest 1", "it is the latest"):
        assert told in page.text
    assert "Next to go: <b>model.ckpt-200</b>" in page.text
    assert "ckptd pin /root/runs/a/model.ckpt-300" in page.text
    assert "unsafe" not in POLICY
    assert "style=" not in page.text
    assert "<script>" not in page.text


def test_a_save_names_the_rank_that_it_waits_for_and_the_command_that_frees_its_place():
    ranks = [RankView(0, True, 10, 10), RankView(1, True, 5, 10), RankView(2, False)]
    view = run("runs/a", (), [save(7, ranks, phase=Phase.DECLARING, waiting_for=["rank 2 of 3 to declare"], age_s=12)])
    page = client_of(FakeSource([view])).get("/runs/runs/a", headers=GOOD).text
    assert "waits for rank 2 of 3 to declare" in page
    assert "ckptd evict runs/a --rank 2" in page
    assert "has not declared" in page
    assert "done, 10 B" in page


def test_a_thousand_ranks_are_a_grid_with_the_absent_first_within_the_budget():
    ranks = [RankView(rank, rank != 777, rank * 10, 10_000) for rank in range(1000)]
    view = run("runs/a", (), [save(7, ranks, waiting_for=["rank 777 of 1000 to declare"])])
    page = client_of(FakeSource([view])).get("/", headers=GOOD)
    assert page.text.count("<rect class=") == 1000
    assert page.text.index("rank 777: has not declared") < page.text.index("rank 0: 0 %")
    assert len(page.content) + Assets().size_bytes < 220_000


def test_a_thousand_checkpoints_are_a_hundred_a_page():
    kept = tuple(checkpoint(step, age_s=1000 - step) for step in range(1000))
    client = client_of(FakeSource([run("runs/a", kept)]))
    page = client.get("/", headers=GOOD)
    assert page.text.count('<th scope="row">') == 100
    assert len(page.content) < 150_000
    older = client.get("/runs/runs/a?skip=100", headers=GOOD)
    assert "model.ckpt-899" in older.text
    assert client.get("/runs/runs/a?skip=x", headers=GOOD).status_code == 400


def test_a_visitor_sees_the_runs_that_it_may_read_and_no_trace_of_others():
    source = FakeSource([run("runs/a", (checkpoint(1),)), run("runs/b", (checkpoint(2, run="runs/b"),))])
    client = client_of(source)
    page = client.get("/", headers={"Authorization": "Bearer a"})
    assert ("runs/a" in page.text, "runs/b" in page.text) == (True, False)
    refused, missing = (client.get(f"/runs/{name}", headers={"Authorization": "Bearer a"}) for name in ("runs/b", "no"))
    assert (refused.status_code, missing.status_code) == (404, 404)
    assert refused.text.replace("runs/b", "no") == missing.text
    assert client.get("/runs/runs/b", headers=GOOD).status_code == 200


HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a\u202eb", "a\nb", "x" * 100_000, "{{7*7}}"]


@pytest.mark.parametrize("name", HOSTILE, ids=["script", "attribute", "direction", "line", "long", "template"])
def test_names_of_others_are_inert(name):
    kept = (Checkpoint(f"/root/r/{name[:300]}-1", 1, 4, 1, NOW),)  # names have bounds, reasons have none
    ranks = [RankView(0, True, 1, 2, host=name)]
    view = run(name[:300], kept, [save(1, ranks, waiting_for=[name], run="r")], problems=(name,))
    recent = RecentPast()
    page = client_of(FakeSource([view]), recent).get("/", headers=GOOD).text
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "\u202e" not in re.sub('value="[^"]*"', "", page)  # what the form sends is the name itself
    assert len(page) < 50_000


def test_a_browser_without_an_identity_gets_a_page_that_tells_what_to_do_with_its_style():
    client = client_of(FakeSource())
    page = client.get("/", headers={"Accept": "text/html"})
    assert (page.status_code, page.headers["www-authenticate"]) == (401, 'Bearer realm="ckptd"')
    assert "ckptd open" in page.text
    style = client.get("/static/page.css")
    assert (style.status_code, "immutable" in style.headers["cache-control"]) == (200, True)
    assert client.get("/static/../shell.py").status_code in (401, 404)
    assert client.get("/static/uplot.LICENSE").status_code == 404


def test_what_is_of_others_is_what_was_reviewed():
    client = client_of(FakeSource())
    for name, digest in VENDORED.items():
        assert hashlib.sha256(client.get(f"/static/{name}").content).hexdigest() == digest


def test_without_a_run_the_page_says_how_to_see_one():
    assert "ckptd demo" in client_of(FakeSource()).get("/", headers=GOOD).text


def test_pages_and_styles_come_compressed_but_not_what_repeats_the_words_of_a_link():
    client = client_of(FakeSource([run("runs/a", tuple(checkpoint(step) for step in range(20)))]))
    for path in ("/", "/runs/runs/a", "/static/uplot.js"):
        answer = client.get(path, headers=GOOD)
        assert (answer.headers["content-encoding"], answer.headers["vary"]) == ("gzip", "Accept-Encoding")
        plain = client.get(path, headers={**GOOD, "Accept-Encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert plain.content == answer.content
    for path in ("/?run=runs/a", "/runs/runs/a?skip=0", "/api/v1/runs/runs/a/checkpoints"):
        assert "content-encoding" not in client.get(path, headers=GOOD).headers
