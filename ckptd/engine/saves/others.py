"""What a save needs of the other saves of its run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar

_Save = TypeVar("_Save", contravariant=True)


class Others(Protocol[_Save]):
    """What a save needs of the other saves of its run. The run's lock is held in each call."""

    def whereabouts(self, save: _Save) -> Mapping[int, str]:
        """Say where the ranks are that a save still waits for."""

    def agent_of(self, rank: int) -> str:
        """Return the host by whose agent a rank has its place; "" for none."""

    def turn_wanted(self) -> None:
        """Called when a save waits for its turn to commit."""

    def ended(self, save: _Save) -> None:
        """Called when a save is over."""
