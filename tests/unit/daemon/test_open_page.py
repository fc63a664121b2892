"""`ckptd open` over a real daemon: the link logs in once, the login outlives a restart, and a stranger gets nothing."""

from __future__ import annotations

import http.client
import os
from urllib.parse import urlsplit

from ckptd.cli import main


def get(http_url, path, **headers):
    parts = urlsplit(http_url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()
    finally:
        connection.close()


def test_a_link_shows_the_page_of_a_daemon_that_served_none_once_and_its_cookie_goes_on(serve, capsys, tmp_path):
    socket = f"unix://{tmp_path}/s"
    (tmp_path / "token").write_text("secret")
    os.chmod(tmp_path / "token", 0o600)
    flags = ("--listen", socket, "--token-file", str(tmp_path / "token"))
    daemon = serve(*flags).ready()
    assert main.run(["open", socket, "--no-browser"]) == 0
    link = capsys.readouterr().out.strip()
    where, path = link.split("/login")
    status, headers, _ = get(where, f"/login{path}")
    assert (status, headers["location"]) == (303, "/")
    assert all(word in headers["set-cookie"] for word in ("HttpOnly", "SameSite=lax", "Path=/"))
    cookie = headers["set-cookie"].partition(";")[0]
    assert get(where, f"/login{path}")[0] == 401
    assert get(where, "/", Cookie=cookie)[0] == 200
    assert get(where, "/")[0] == 401
    assert get(where, "/", Cookie=cookie, Host="evil.example")[0] == 421
    assert get(where, "/metrics", Cookie=cookie)[0] == 404
    daemon.end()
    serve(*flags, "--http", where, name="again").ready()
    assert get(where, "/", Cookie=cookie)[0] == 200
    assert get(where, "/metrics", Cookie=cookie)[0] == 200
