"""What containers run beside the daemon: the health command, the bucket at start, workers on other hosts."""

from __future__ import annotations

import contextlib
import http.server
import os
import signal
import subprocess
import sys
import threading
from concurrent import futures

import grpc
import numpy as np
import pytest
import trustme
from grpc_health.v1 import health, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse

import ckptd
from ckptd.cli import main
from ckptd.demo.processes import child_environment
from tests.e2e.test_packaging import REPOSITORY
from tests.unit.daemon.conftest import Process

WAIT_S = 120


@pytest.fixture
def guarded(tmp_path):
    """A daemon as the manifests start it: one address with TLS and a token for workers, one socket for probes."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    (tmp_path / "ca.crt").write_bytes(authority.cert_pem.bytes())
    (tmp_path / "tls.crt").write_bytes(b"".join(one.bytes() for one in issued.cert_chain_pems))
    (tmp_path / "tls.key").write_bytes(issued.private_key_pem.bytes())
    (tmp_path / "token").write_text("only-for-this-test\n")
    files = {"--tls-cert": "tls.crt", "--tls-key": "tls.key", "--token-file": "token"}
    addresses = ("grpcs://127.0.0.1:0", f"unix://{tmp_path}/s.sock")
    daemon = Process(
        tmp_path,
        *(word for address in addresses for word in ("--listen", address)),
        *(f"{flag}={tmp_path / name}" for flag, name in files.items()),
    )
    try:
        yield daemon.ready()
    finally:
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.wait() == 0, daemon.log.read_text()


def says(capfd, *arguments):
    """Run a command; return its exit code, and what it wrote on stdout and stderr."""
    code = main.run(arguments)
    out, err = capfd.readouterr()
    return code, out, err


def test_health_is_told_to_whoever_shows_the_token_with_tls_and_to_its_own_user_by_the_socket(guarded, tmp_path, capfd):
    secure, socket = guarded.listening
    token, ca = f"--token-file={tmp_path / 'token'}", f"--ca={tmp_path / 'ca.crt'}"
    assert says(capfd, "health", socket, token)[:2] == (0, "SERVING\n")
    assert says(capfd, "health", secure, token, ca)[:2] == (0, "SERVING\n")
    code, out, err = says(capfd, "health", secure, ca)
    assert (code, out) == (9, "")
    assert "token" in err
    assert says(capfd, "health", socket)[:2] == (0, "SERVING\n")  # a user needs no token at a socket of its own


def test_health_of_nobody_and_of_a_daemon_that_drains_is_unavailable(tmp_path, capfd):
    assert says(capfd, "health", f"unix://{tmp_path}/nobody.sock", "--timeout-s=1")[0] == 6
    draining = health.HealthServicer()
    draining.set("", HealthCheckResponse.NOT_SERVING)
    server = grpc.server(futures.ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(draining, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        code, out, err = says(capfd, "health", f"127.0.0.1:{port}")
    finally:
        server.stop(None).wait(WAIT_S)
    assert (code, out) == (6, "")
    assert "takes no new saves: it says NOT_SERVING" in err


def test_the_example_is_one_rank_where_something_else_starts_the_processes(guarded, tmp_path):
    workers = [
        subprocess.Popen(
            [
                sys.executable,
                str(REPOSITORY / "examples" / "train_numpy.py"),
                guarded.listening[0],
                "--run=job",
                "--steps=20",
                "--save-every=10",
                f"--token-file={tmp_path / 'token'}",
                f"--ca={tmp_path / 'ca.crt'}",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**child_environment(), "RANK": str(rank), "WORLD_SIZE": "3"},
        )
        for rank in range(3)
    ]
    try:
        for rank, worker in enumerate(workers):
            out, err = worker.communicate(timeout=WAIT_S)
            assert worker.returncode == 0, err
            assert out.startswith(f"worker {rank} of 3: error")
            assert out.endswith("model.ckpt-20\n")
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    assert ckptd.load_variable(str(guarded.root / "job"), "w").shape == (1000, 64)
    assert ckptd.load_variable(str(guarded.root / "job"), "step") == np.int64(20)


@contextlib.contextmanager
def answering(*codes):
    """Serve HTTP: one code for each request, the last one for all that follow; yield the address and what was asked."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self):
            code = codes[min(len(asked), len(codes) - 1)]
            asked.append((self.command, self.path))
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_PUT = answer

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", asked
        finally:
            server.shutdown()
            thread.join(WAIT_S)


def make_bucket(url, endpoint):
    """Run the script that the compose file runs before the daemon."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_ENDPOINT_URL": endpoint}
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "deploy" / "make_bucket.py"), url, "--timeout-s=20"],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        env={**environment, "AWS_CONFIG_FILE": os.devnull, "AWS_EC2_METADATA_DISABLED": "true"},
    )


@pytest.mark.parametrize(
    ("codes", "said", "requests"),
    [
        ((200,), "there already", ["HEAD"]),
        ((404, 200), "made", ["HEAD", "PUT"]),
        ((503, 404, 503, 404, 200), "made", ["HEAD", "HEAD", "PUT", "HEAD", "PUT"]),
    ],
    ids=["there", "missing", "still-starting"],
)
def test_the_bucket_is_made_once_a_server_answers(codes, said, requests):
    with answering(*codes) as (endpoint, asked):
        done = make_bucket("s3://checkpoints/runs", endpoint)
    assert (done.returncode, done.stdout) == (0, f"bucket checkpoints: {said}\n"), done.stderr
    assert asked == [(method, "/checkpoints") for method in requests]


def test_a_refused_bucket_is_not_asked_for_again():
    with answering(403) as (endpoint, asked):
        done = make_bucket("s3://checkpoints", endpoint)
    assert done.returncode == 1
    assert "bucket checkpoints cannot be made" in done.stderr
    assert len(asked) == 1


def test_a_directory_needs_no_bucket_and_no_server():
    done = make_bucket("/checkpoints", "http://127.0.0.1:1")
    assert (done.returncode, done.stdout) == (0, "/checkpoints is in no bucket: nothing to make\n")
