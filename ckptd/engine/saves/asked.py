"""What one host has declared to a coordinator, and how far it is told."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from ckptd.engine.hosts.messages import AgentLife, FromCoordinator, Go, HostDeclaration, SaveEnded
from ckptd.engine.hosts.progress import Progress
from ckptd.engine.hosts.views import PartView
from ckptd.engine.identity import Declaration, SaveRef

ToAgent = Callable[[FromCoordinator, str], None]
"""Takes a message to one agent, and the run that it is about. It must not block."""

Stamp = Callable[[Declaration], Declaration]
"""Adds to a declaration who makes it, and what the caller may do."""


Beginning = Callable[[str, Declaration], AbstractContextManager[None]]
"""Lets the block declare for the agent of a host; `NotNowError` if that begins more than its limits allow."""


def no_index() -> None:
    """Return that no index is known; see `Asked.index_sum`."""


@dataclass(slots=True, eq=False)
class Asked:
    """What one host has declared. The lock of `HostRequests` guards it."""

    said: HostDeclaration
    by: AgentLife
    stamp: Stamp
    ref: SaveRef | None = None
    go: Go | None = None
    known_layout: bytes = b""  # what the agent's present life knows: it is not told again
    is_sealed: bool = False
    progress: Progress | None = None
    is_new: bool = False  # nobody can have been told of it before this coordinator was
    ended: SaveEnded | None = None
    declared: list[Declaration] = field(default_factory=list)
    index_sum: Callable[[], int | None] = no_index  # the checksum of its index, once that is made

    def view(self) -> PartView:
        """Describe it for operators."""
        said, progress = self.said, self.progress
        return PartView(
            said.run,
            said.step,
            "" if self.ref is None else self.ref.save_id,
            said.ranks,
            is_sealed=self.is_sealed,
            size_bytes=0 if progress is None else progress.size_bytes,
            owed_bytes=0 if progress is None else progress.owed_bytes,
        )
