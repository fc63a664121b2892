from __future__ import annotations

import os
from contextlib import redirect_stdout
from io import StringIO

import pytest

from ckptd.cli import main
from tests.browser import chromium
from tests.unit.daemon.conftest import Process


@pytest.fixture(scope="package")
def browser():
    """Start one browser for all tests of this folder.

    It ends with them: Playwright runs an event loop in this thread, where other tests run theirs.
    """
    try:
        path = chromium.find()
        from playwright.sync_api import sync_playwright
    except (chromium.NoBrowserError, ImportError) as error:
        if os.environ.get("CI"):
            pytest.fail(f"no browser: {error}")
        pytest.skip(f"no browser: {error}")
    with sync_playwright() as playwright:
        # Root has no sandbox; the network of tests is this host.
        running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield chromium.Browser(running)
        running.close()


class Daemon:
    """A daemon with a page, at a socket by which this user opens it."""

    def __init__(self, directory, *flags, name="d", http="127.0.0.1:0", root="root"):
        self.socket = f"unix://{directory}/s"
        self.process = Process(directory, "--listen", self.socket, "--http", http, *flags, name=name, root=root)
        self.process.ready()

    def link(self):
        """Return what `ckptd open` prints."""
        with redirect_stdout(StringIO()) as printed:
            assert main.run(["open", self.socket, "--no-browser"]) == 0
        return printed.getvalue().strip()


@pytest.fixture
def daemons(tmp_path):
    """Return what starts daemons with a page; they end with the test."""
    started = []

    def start(*flags, **more):
        started.append(Daemon(tmp_path, *flags, **more))
        return started[-1]

    yield start
    for each in started:
        each.process.end()
