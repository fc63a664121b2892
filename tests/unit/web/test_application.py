from __future__ import annotations

import pytest
from starlette.responses import PlainTextResponse

from ckptd.engine.refusals import NotNowError
from ckptd.errors import NotPermittedError
from tests.unit.web.conftest import Site

GOOD = {"Authorization": "Bearer good"}


def test_health_is_told_to_all_by_any_name(site):
    for headers in ({}, {"Host": "evil.example"}):
        assert site.get("/livez", **headers)[:2] == (200, "ok\n")
        assert site.get("/readyz", **headers)[:2] == (200, "ok\n")
    site.daemon.alive, site.daemon.not_ready = False, "the daemon is about to end"
    status, said, _ = site.get("/livez")
    assert (status, "answers no calls" in said) == (503, True)
    assert site.get("/readyz")[:2] == (503, "the daemon is about to end\n")
    assert site.daemon.visits == []


@pytest.mark.parametrize("path", ["/metrics", "/", "/none", "//livez", "/livez/", "/livez/..", "/%6civez/x", "/Livez"])
def test_everything_else_needs_an_identity_whether_it_is_there_or_not(site, path):
    status, said, headers = site.get(path)
    assert (status, said) == (
        401,
        "the call shows no token; over HTTP a token is the header Authorization: Bearer TOKEN\n",
    )
    assert headers["www-authenticate"] == 'Bearer realm="ckptd"'
    assert site.get(path, Authorization="Bearer bad")[0] == 401
    assert site.get(path, **GOOD)[0] == 404
    assert {visit.page for visit in site.daemon.visits} == {f"GET {path.replace('%6c', 'l')}"}


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "bEaReR"])
def test_the_scheme_of_a_token_is_known_in_any_case_but_the_token_in_its_own_only(site, scheme):
    assert site.get("/metrics", Authorization=f"{scheme} good")[0] == 404
    assert site.get("/metrics", Authorization=f"{scheme} Good")[0] == 401
    assert site.get("/metrics", Authorization=f"{scheme}good")[0] == 401


def test_a_strangers_name_is_refused_before_its_caller_is_looked_at_unless_it_shows_a_token(site):
    status, said, _ = site.get("/metrics", Host="evil.example:7080")
    assert status == 421
    assert "evil.example" in said
    assert site.daemon.visits == []
    assert site.get("/metrics", Host="prometheus-calls-it-so", **GOOD)[0] == 404


@pytest.mark.parametrize(
    ("error", "status"), [(NotPermittedError("no such role"), 403), (NotNowError("calls too often"), 429)]
)
def test_why_a_caller_is_refused_is_its_status_and_its_text(site, error, status):
    site.daemon.error = error
    assert site.get("/metrics", **GOOD)[:2] == (status, f"{error}\n")


def test_it_is_read_only_and_no_answer_is_kept_sniffed_or_framed(site):
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert site.get("/readyz", method)[0] == 405
    status, said, headers = site.get("/readyz", "HEAD")
    assert (status, said) == (200, "")
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "server" not in headers


def test_a_bug_is_answered_logged_and_told_in_no_detail(caplog):
    async def broken(request):
        raise KeyError("secret")

    site = Site({"/broken": broken, "/fine": lambda request: PlainTextResponse("fine")})
    try:
        status, said, _ = site.get("/broken", **GOOD)
        assert (status, "KeyError" in said, "secret" in said) == (500, True, False)
        assert site.get("/fine", **GOOD)[:2] == (200, "fine")
    finally:
        site.listener.stop()
    assert "a bug in ckptd" in caplog.text
