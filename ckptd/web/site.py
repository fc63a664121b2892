"""All pages over one source: which answers at which path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ckptd.engine.hosts.views import HostsView
from ckptd.web.checkpoint_api import CheckpointApi
from ckptd.web.checkpoint_page import CheckpointPages
from ckptd.web.feed import Feed, LookAgain
from ckptd.web.recent import RecentPast
from ckptd.web.run_page import RunPages
from ckptd.web.shell import Shell
from ckptd.web.source import PageSource


class Site:
    """See the module.

    Attributes:
        shell: what all pages share.
        routes: what answers, by path; the first that matches counts.
    """

    def __init__(
        self,
        source: PageSource,
        recent: RecentPast | None = None,
        hosts: Callable[[], HostsView | None] = lambda: None,
        look_again: LookAgain | None = None,
    ) -> None:
        """Show `source`, and `recent`, which it has where it is live.

        Args:
            source: what is shown.
            recent: what has happened lately.
            hosts: describes those whose agents attend.
            look_again: lets the visitor of a page that follows `recent` in again, now and then.
        """
        self.shell = Shell(source)
        self.runs = RunPages(self.shell, recent, hosts)
        self.checkpoints = CheckpointPages(self.shell)
        self.feed: Feed | None = None
        self.routes: dict[str, Any] = {
            "/": self.runs.any_run,
            "/static/{name}": self.shell.assets.answer,
            **self._of_checkpoints(),
            "/runs/{run:path}": self.runs.one_run,
        }

        if recent is not None and look_again is not None:
            self.feed = Feed(self.shell, self.runs, recent, look_again)
            self.runs.begins_at = self.feed.begins_at
            self.routes["/events"] = self.feed.answer

    def _of_checkpoints(self) -> dict[str, Any]:
        pages, api = self.checkpoints, CheckpointApi(self.checkpoints)
        below, api_below = "/runs/{run:path}/checkpoints", "/api/v1/runs/{run:path}/checkpoints"
        return {
            f"{below}/{{label}}/tensor/values": pages.values,
            f"{below}/{{label}}/tensor": pages.tensor,
            f"{below}/{{label}}": pages.checkpoint,
            f"{api_below}/{{label}}/tensor/values": api.values,
            f"{api_below}/{{label}}/tensor": api.tensor,
            f"{api_below}/{{label}}": api.checkpoint,
            api_below: api.checkpoints,
            "/api/v1/runs": api.runs,
        }

    def close(self) -> None:
        """Fill no more pages, and end the streams of events."""
        if self.feed is not None:
            self.feed.close()
        self.checkpoints.close()
        self.shell.close()
