"""Who can reach a daemon that asks nobody for an identity: its own user, and others only where it was told so."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from ckptd.cli.status import command as status_command
from ckptd.errors import NotPermittedError
from tests.fakes.waiting import eventually
from tests.starts import prepared


@pytest.fixture
def runtime():
    """Give a directory whose path is short enough for sockets in it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield Path(directory)


def test_without_listen_only_its_own_user_reaches_it(tmp_path, runtime):
    log, ready = tmp_path / "log", tmp_path / "ready"
    with log.open("wb") as out:
        daemon = prepared.Popen(
            [sys.executable, "-m", "ckptd", "serve", "--root", str(tmp_path / "root"), "--ready-file", str(ready)],
            stderr=out,
            env={**os.environ, "XDG_RUNTIME_DIR": str(runtime)},
        )
    try:
        eventually(lambda: ready.exists() or daemon.poll() is not None, log.read_text)
        assert json.loads(ready.read_text())["listening"] == [f"unix://{runtime}/ckptd.sock"]
        assert stat.S_IMODE((tmp_path / "root").stat().st_mode) == 0o700
        sockets = [path for path in runtime.iterdir() if path.is_socket()]
        assert {stat.S_IMODE(path.stat().st_mode) for path in sockets} == {0o600}
        assert " warning: " not in log.read_text()
    finally:
        daemon.terminate()
        assert daemon.wait(60) == 0


def test_a_port_of_this_host_is_refused_unless_its_openness_is_accepted_and_told(serve, tmp_path):
    command = [sys.executable, "-m", "ckptd", "serve", "--root", str(tmp_path / "root"), "--listen", "127.0.0.1:0"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert refused.returncode == NotPermittedError.exit_code
    assert "leave out --listen" in refused.stderr
    assert "--insecure-loopback" in refused.stderr
    assert not (tmp_path / "root").exists()


def test_what_strangers_may_do_is_told_at_the_start_and_in_every_status(serve, runtime):
    socket = f"unix://{runtime}/d.sock"
    shared = ["--listen", "127.0.0.1:0", "--listen", socket, "--socket-mode", "0660"]
    daemon = serve(*shared).ready()  # the fixture accepts the port
    first = daemon.log.read_text().splitlines()[0]
    assert " warning: " in first
    assert "--insecure-loopback" in first
    assert "127.0.0.1:0" not in first
    status = CliRunner().invoke(status_command, [daemon.listening[0]])
    for said in (
        f"of any user, may do everything over {daemon.listening[0]}",
        f"--socket-mode 0660: every user of the socket's group may do everything over {socket}",
    ):
        assert said in daemon.log.read_text()
        assert f"WARNING: {said}" in status.output.replace("--insecure-loopback: every process of this host, ", "")
