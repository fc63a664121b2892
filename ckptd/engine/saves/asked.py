"""What one host has declared to a coordinator, and how far it is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ckptd.engine.hosts.messages import AgentLife, FromCoordinator, Go, HostDeclaration, SaveEnded
from ckptd.engine.identity import Declaration, SaveRef

ToAgent = Callable[[FromCoordinator, str], None]
"""Takes a message to one agent, and the run that it is about. It must not block."""

Stamp = Callable[[Declaration], Declaration]
"""Adds to a declaration who makes it, and what the caller may do."""


@dataclass(slots=True, eq=False)
class Asked:
    """What one host has declared. The lock of `HostRequests` guards it."""

    said: HostDeclaration
    by: AgentLife
    stamp: Stamp
    ref: SaveRef | None = None
    go: Go | None = None
    is_sealed: bool = False
    ended: SaveEnded | None = None
    declared: list[Declaration] = field(default_factory=list)
