"""What the agent of one host does, as its machine calls for it."""

from __future__ import annotations

from dataclasses import dataclass

from ckptd.agent.host_save import HostOutcome
from ckptd.engine.hosts.messages import FromAgent, Go, HostDeclaration


@dataclass(frozen=True, slots=True)
class Find:
    """Look up which coordinator the root has, and connect to it."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message to the coordinator."""

    message: FromAgent


@dataclass(frozen=True, slots=True)
class Fill:
    """Write this host's shard; then `filled`, `found_taken` or `fill_failed`.

    With `may_be_begun` a former life of this agent may have left a part of it.
    If it is written already for another request, what this one declared takes part in that.
    """

    go: Go
    declaration: HostDeclaration
    may_be_begun: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """End the writers of a save, which may have none; then `stopped`."""

    save: str


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell the ranks how their save ended."""

    request_id: str
    outcome: HostOutcome


Effect = Find | Send | Fill | Stop | Tell
