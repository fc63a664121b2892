"""All pages over one source: which answers at which path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ckptd.engine.hosts.views import HostsView
from ckptd.web.run_page import Recent, RunPages
from ckptd.web.shell import Shell
from ckptd.web.source import PageSource


class Site:
    """See the module.

    Attributes:
        shell: what all pages share.
        routes: what answers, by path; the first that matches counts.
    """

    def __init__(
        self, source: PageSource, recent: Recent | None = None, hosts: Callable[[], HostsView | None] = lambda: None
    ) -> None:
        """Show `source`, and `recent`, which it has where it is live."""
        self.shell = Shell(source)
        self.runs = RunPages(self.shell, recent, hosts)
        self.routes: dict[str, Any] = {
            "/": self.runs.any_run,
            "/static/{name}": self.shell.assets.answer,
            "/runs/{run:path}": self.runs.one_run,
        }

    def close(self) -> None:
        """Fill no more pages."""
        self.shell.close()
