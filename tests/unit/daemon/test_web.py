"""`ckptd serve --http`: real processes, called as Prometheus and probes call them."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import subprocess
import sys

import pytest
import trustme
from click.testing import CliRunner

from ckptd.cli import output
from ckptd.cli.status import describe, request_status
from ckptd.cli.token import command as token_command
from ckptd.daemon import app, config
from ckptd.errors import InvalidRequestError, NotPermittedError
from ckptd.service.exposure import check_http_exposure
from ckptd.wire import addresses
from tests.fakes import schemas
from tests.fakes.waiting import eventually
from tests.unit.daemon.test_process import pem_of
from tests.unit.daemon.test_renewed_certificates import Pki

WAIT_S = 60
HTTP = ("--http", "127.0.0.1:0")


def get(daemon, path, *, context=None, **headers):
    """Return status and text."""
    url = json.loads(daemon.ready_file.read_text())["http"]
    host, port = url.rpartition("//")[2].rsplit(":", 1)
    if url.startswith("https"):
        connection = http.client.HTTPSConnection(host, int(port), timeout=WAIT_S, context=context)
    else:
        connection = http.client.HTTPConnection(host, int(port), timeout=WAIT_S)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1", ("127.0.0.1", 7080, None)),
        ("https://h.example.org", ("h.example.org", 7080, True)),
        ("http://[::1]:80/", ("::1", 80, False)),
        ("localhost:0", ("localhost", 0, None)),
    ],
)
def test_a_missing_port_is_7080(text, address):
    parsed = addresses.parse_http(text)
    assert (parsed.host, parsed.port, parsed.secure) == address


@pytest.mark.parametrize("text", ["", "unix:///a", "grpc://a:1", "::1:7080", "a:b", "http://", "a:70000", "a/b"])
def test_what_is_no_address_is_told_with_the_forms_there_are(text):
    with pytest.raises(InvalidRequestError, match="https://host:port"):
        addresses.parse_http(text)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"http": "0.0.0.0"}, "http://0.0.0.0:7080 can be reached from other hosts: that needs TLS"),
        ({"http": "127.0.0.1", "listen": ("127.0.0.1:7070",)}, "--tokens, or --client-ca with https://"),
        ({"http": "https://127.0.0.1"}, "https://127.0.0.1:7080 needs a certificate: pass --tls-cert FILE"),
    ],
)
def test_it_listens_nowhere_where_grpc_may_not(flags, says):
    options = app.server_options(config.Config(**{"root": "/r", "listen": ("unix:///tmp/s.sock",), **flags}), {})
    with pytest.raises(NotPermittedError) as refused:
        check_http_exposure(options)
    assert says in str(refused.value)


def test_a_refused_address_ends_the_start_before_anything_is_made(tmp_path):
    command = [sys.executable, "-m", "ckptd", "serve", "--root", str(tmp_path / "root"), "--http", "0.0.0.0"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert refused.returncode == NotPermittedError.exit_code
    assert "http://0.0.0.0:7080 can be reached from other hosts" in refused.stderr
    assert not (tmp_path / "root").exists()


def test_the_missing_extra_is_named_before_anything_is_made(tmp_path):
    program = (
        "import sys; sys.modules['starlette'] = sys.modules['uvicorn'] = None\n"
        "from ckptd.cli.main import main; sys.argv[0] = 'ckptd'; main()"
    )
    flags = ["serve", "--root", str(tmp_path / "root"), "--insecure-loopback", "--http", "127.0.0.1:0"]
    refused = subprocess.run(
        [sys.executable, "-c", program, *flags], capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert refused.returncode == InvalidRequestError.exit_code
    assert "pip install 'ckptd[web]'" in refused.stderr
    assert not (tmp_path / "root").exists()


def test_it_is_told_by_the_ready_file_the_log_and_status_and_health_by_it(serve):
    daemon = serve(*HTTP).ready()
    url = json.loads(daemon.ready_file.read_text())["http"]
    assert url.startswith("http://127.0.0.1:")
    assert f"; HTTP at {url}; checkpoints in" in daemon.log.read_text()
    assert f"may do everything over {daemon.listening[0]}, {url}" in daemon.log.read_text()
    told = describe(request_status(daemon.listening[0]))
    assert told["http"] == url
    schemas.check("status", output.jsonable(told))
    assert get(daemon, "/livez") == get(daemon, "/readyz") == (200, "ok\n")
    assert get(daemon, "/none")[0] == 404  # --insecure-loopback
    assert get(daemon, "/none", Host="evil.example")[0] == 421
    other = serve("--http", url, root="other", name="other")
    assert other.wait() == 4
    assert f"another program already listens on {url}; pass another --http" in other.log.read_text()
    held = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), WAIT_S)
    daemon.process.terminate()
    assert daemon.wait() == 0
    held.close()


def test_without_the_flag_nothing_listens_and_none_of_its_code_is_loaded(serve):
    daemon = serve().ready()
    assert "http" not in json.loads(daemon.ready_file.read_text())
    assert "HTTP at" not in daemon.log.read_text()
    assert describe(request_status(daemon.listening[0]))["http"] is None
    program = "import sys, ckptd.daemon.app; print([each for each in sys.modules if each.startswith('ckptd.web')])"
    assert subprocess.check_output([sys.executable, "-c", program], text=True, timeout=WAIT_S) == "[]\n"


def test_tokens_and_the_policy_are_those_of_grpc_and_take_effect_at_once(serve, tmp_path):
    tokens, policy = tmp_path / "tokens.json", tmp_path / "policy.toml"

    def new(name):
        made = CliRunner().invoke(token_command, ["new", name, "--tokens", str(tokens)], catch_exceptions=False)
        return {"Authorization": f"Bearer {made.stdout.split()[-1]}"}

    prometheus, stranger = new("prometheus"), new("stranger")
    policy.write_text('[[grant]]\nto = "token:prometheus"\nruns = "**"\nrole = "read"\n')
    audit = tmp_path / "audit.jsonl"
    daemon = serve(
        *HTTP, "--tokens", str(tokens), "--policy", str(policy), "--audit-log", str(audit), "--log-level", "debug"
    ).ready()
    assert get(daemon, "/readyz")[0] == 200
    assert get(daemon, "/none", **prometheus)[0] == 404
    status, said = get(daemon, "/none", **stranger)
    assert (status, "token:stranger may not read any run" in said) == (403, True)
    status, said = get(daemon, "/none")
    assert (status, "the call shows no token" in said) == (401, True)
    assert get(daemon, "/none", Authorization="Bearer wrong")[0] == 401
    assert get(daemon, "/none", Authorization=prometheus["Authorization"].removeprefix("Bearer "))[0] == 401
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    url = json.loads(daemon.ready_file.read_text())["http"]
    assert [each["listening"] for each in lines if each["event"] == "start" and each["outcome"] == "done"] == [
        [*daemon.listening, url]
    ]
    refusals = [each for each in lines if each["event"] == "refusal"]
    assert {(each["method"], each["identity"]) for each in refusals} == {
        ("GET /none", ""),
        ("GET /none", "token:stranger"),
    }
    CliRunner().invoke(token_command, ["revoke", "prometheus", "--tokens", str(tokens)], catch_exceptions=False)
    eventually(lambda: get(daemon, "/none", **prometheus)[0] == 401, daemon.log.read_text)
    for secret in (prometheus, stranger):
        assert secret["Authorization"].removeprefix("Bearer ") not in daemon.log.read_text()


def test_tls_shows_the_daemons_certificate_and_takes_the_clients_which_may_be_renewed(serve, tmp_path):
    before = Pki(tmp_path)
    daemon = serve("--http", "https://127.0.0.1:0", "--listen", "grpcs://127.0.0.1:0", *before.flags).ready()

    def context(pki, certificate=None):
        made = ssl.create_default_context(cadata=pki.ours.cert_pem.bytes().decode())
        if certificate is not None:
            path = tmp_path / "client.both"
            path.write_bytes(b"".join(certificate))
            made.load_cert_chain(path)
        return made

    mine = before.shown["client_certificate"]
    assert get(daemon, "/readyz", context=context(before)) == (200, "ok\n")
    assert get(daemon, "/none", context=context(before))[0] == 401
    assert get(daemon, "/none", context=context(before, mine))[0] == 404
    with pytest.raises((ssl.SSLError, OSError)):
        get(daemon, "/livez", context=context(before, pem_of(trustme.CA().issue_cert(common_name="trainer"))))
    after = Pki(tmp_path)
    daemon.wait_for_log("read again")
    eventually(lambda: answers(daemon, context(after)), daemon.log.read_text)
    assert get(daemon, "/none", context=context(after, after.shown["client_certificate"]))[0] == 404
    with pytest.raises((ssl.SSLError, OSError)):
        get(daemon, "/none", context=context(after, mine))  # its authority is gone


def answers(daemon, context):
    try:
        return get(daemon, "/readyz", context=context)[0] == 200
    except ssl.SSLError:
        return False


def test_a_coordinator_and_an_agent_serve_it_too_and_an_agent_without_one_is_not_ready(serve, tmp_path):
    coordinator = serve(*HTTP, "--role", "coordinator", "--agent-lease-s", "2", name="c").ready()
    where = ["--role", "agent", "--name", "h1", "--coordinator", coordinator.listening[0], "--listen"]
    agent = serve(*HTTP, *where, f"unix://{tmp_path}/a.sock", name="a").ready()
    assert get(coordinator, "/readyz") == (200, "ok\n")
    eventually(lambda: get(agent, "/readyz") == (200, "ok\n"), agent.log.read_text)
    coordinator.process.kill()
    eventually(lambda: get(agent, "/readyz") == (503, "the agent has no coordinator\n"), agent.log.read_text)
    assert get(agent, "/livez") == (200, "ok\n")
