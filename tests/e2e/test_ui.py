"""`ckptd ui` as a process: the link that it prints, its end, and what it says when it cannot serve."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from http.cookiejar import CookieJar

import numpy as np
import pytest

import ckptd

UI = [sys.executable, "-c", "from ckptd.cli.main import main; main()", "ui"]


def ended(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*UI, *arguments, "--no-browser"], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_printed_link_opens_the_page_and_a_signal_ends_it(number, tmp_path):
    ckptd.save_checkpoint(f"{tmp_path}/m-1", {"w": np.ones(3)})
    serving = subprocess.Popen(
        [*UI, f"{tmp_path}/m-1", "--no-browser", "--http", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert serving.stdout is not None
        link = serving.stdout.readline().strip()
        assert link.startswith("http://127.0.0.1:")
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        with opener.open(link, timeout=60) as page:
            assert "token" not in page.url
            assert page.url.endswith("/checkpoints/m-1")
            assert b"tensor?name=w" in page.read()
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(link.partition("?")[0], timeout=60)
        serving.send_signal(number)
        assert serving.wait(60) == 0
    finally:
        serving.kill()
        serving.wait()


def test_wrong_places_and_addresses_say_what_to_do_instead(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    missing = ended(f"{tmp_path}/checkpoint-s")
    assert missing.returncode == 3
    assert "there is no checkpoint" in missing.stderr
    elsewhere = ended(str(tmp_path), "--http", "0.0.0.0:0")
    assert elsewhere.returncode == 2
    assert "ssh -L" in elsewhere.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        conflict = ended(str(tmp_path), "--http", f"127.0.0.1:{taken.getsockname()[1]}")
    assert conflict.returncode == 4
    assert "another program already listens" in conflict.stderr
