"""The browser of these tests: Debian's Chromium, headless, driven by Playwright, and what a page in it must not do."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WAIT_MS = 60_000
AXE = Path(__file__).parent / "vendored" / "axe.js"
AXE_SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
"""Of axe-core 4.14.1 (`axe.min.js`), MPL-2.0."""

SCREENSHOTS = "CKPTD_SCREENSHOTS"
"""Names the folder that pictures of each state are written to, for people to look at; without it there are none."""

PHONE = {"width": 375, "height": 812}
DESK = {"width": 1200, "height": 900}


class NoBrowserError(Exception):
    """Why there is none."""


def find() -> str:
    """Return the path of Chromium; root installs it from Debian's packages where it is missing.

    Raises:
        NoBrowserError: it is not here, and cannot be installed.
    """
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is not None:
        return found
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise NoBrowserError("there is no chromium here, and only root can install it with apt-get")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", "chromium"]):
        line = ["apt-get", "-o", "Acquire::Retries=5", *command]
        done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=900, check=False)
        if done.returncode:
            raise NoBrowserError(f"{' '.join(line)} ended with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    found = shutil.which("chromium")
    if found is None:
        raise NoBrowserError("the package chromium has no program of that name")
    return found


class Browser:
    """A running browser. Each visit has its own cookies."""

    def __init__(self, running: Any) -> None:
        self._running = running

    @contextmanager
    def visit(self, **options: Any) -> Iterator[Tab]:
        """Open a tab. It fails at its end if the page has shown a dialog, or reported an error."""
        context = self._running.new_context(**{"viewport": DESK, **options})
        context.set_default_timeout(WAIT_MS)
        try:
            tab = Tab(context.new_page())
            yield tab
            assert tab.complaints == []
        finally:
            context.close()


class Tab:
    """One page, and what it complained of: dialogs, errors of scripts, and what the policy of content refused."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.received_bytes = 0
        self._may_lose_the_daemon = False
        page.on("dialog", self._dialog)
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("console", self._console)

    def _dialog(self, dialog: Any) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _console(self, message: Any) -> None:
        is_loss = "net::ERR_" in message.text and self._may_lose_the_daemon
        if message.type in ("error", "warning") and not is_loss:
            self.complaints.append(f"{message.type}: {message.text}")

    def lose_the_daemon(self) -> None:
        """Accept from now on that the browser reports connections that break."""
        self._may_lose_the_daemon = True

    def count_bytes(self) -> None:
        """Count what comes over the network from now on, as it is sent: compressed, with its headers."""
        session = self.page.context.new_cdp_session(self.page)
        session.send("Network.enable")
        session.on("Network.loadingFinished", self._loaded)

    def _loaded(self, event: dict[str, Any]) -> None:
        self.received_bytes += int(event["encodedDataLength"])

    def overflow_px(self) -> int:
        """Return how many pixels of the page lie to the right of the window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))

    def barriers(self) -> list[str]:
        """Return what axe finds that shuts people out: each rule of serious or critical impact, and where."""
        source = AXE.read_bytes()
        assert hashlib.sha256(source).hexdigest() == AXE_SHA256
        if not self.page.evaluate("'axe' in window"):
            self.page.evaluate(source.decode())
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{each['id']}: {node['html'][:200]} {node['failureSummary']}"
            for each in found["violations"]
            if each["impact"] in ("serious", "critical")
            for node in each["nodes"]
        ]

    def picture(self, name: str) -> None:
        """Keep a picture of the whole page, where this run of the tests names a folder for them."""
        folder = os.environ.get(SCREENSHOTS)
        if folder:
            self.page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)
