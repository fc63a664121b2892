"""Which checkpoints of a run a name means.

A run may hold several series of checkpoints, told apart by their base names: ``model.ckpt-7`` beside ``best-7``. A step
belongs to its name, so whatever takes a step takes a name, too.

The usual name, ``model.ckpt``, is also what a program has that names nothing: one that follows or restores what others
save. So where a run holds nothing of that name, it means whatever is there. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ckptd.engine.checkpoint import Checkpoint
from ckptd.format import names

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NamedStep:
    """A step of one name: ``model.ckpt-7``, however many digits it is written with."""

    name: str
    step: int

    def __str__(self) -> str:
        return f"step {self.step}" if self.name == names.ANY_NAME else f"step {self.step} of {self.name!r}"


def name_of(checkpoint: Checkpoint) -> str:
    """Return a checkpoint's base name."""
    base = checkpoint.prefix.rpartition("/")[2]
    return base if checkpoint.step is None else names.base_name(base)


def of_name(found: Sequence[T], name: str, *, checkpoint_of: Callable[[T], Checkpoint]) -> list[T]:
    """Return those that `name` means, in their order; `checkpoint_of` tells what each of `found` is about."""
    if name == names.ANY_NAME:
        return list(found)
    own = [each for each in found if name_of(checkpoint_of(each)) == name]
    return list(found) if not own and name == names.DEFAULT_NAME else own


def latest_of(name: str, listed: Sequence[Checkpoint], forgotten: Sequence[Checkpoint]) -> Checkpoint | None:
    """Return the newest that `name` means, None if there is none.

    `listed` are those that the state file lists, `forgotten` those that it listed once; both oldest first. A state file
    may list no more than the very latest, whatever its name: then the newest of another name is among the others.
    """
    if name != names.ANY_NAME:
        for found in (listed, forgotten):
            own = [each for each in found if name_of(each) == name]
            if own:
                return own[-1]
    return listed[-1] if listed and name in (names.ANY_NAME, names.DEFAULT_NAME) else None
