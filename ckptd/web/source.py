"""What pages show: a daemon, or a directory of checkpoints without one. Pages know only this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ckptd.engine.saves.views import RunView
from ckptd.storage.base import Objects


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that the health line tells: ``store: local disk, 1.2 TB free``. `is_bad`: someone must act."""

    name: str
    value: str
    is_bad: bool = False


@dataclass(frozen=True, slots=True)
class About:
    """What serves the page, and how it is.

    Attributes:
        version: of ckptd.
        host: where it runs.
        root: the directory or URL of all runs.
        facts: in the order in which they are shown.
        warnings: a sentence each.
        why_not_ready: why no new save begins, in words; "" where one may, or where none ever does.
    """

    version: str
    host: str
    root: str
    facts: tuple[Fact, ...] = ()
    warnings: tuple[str, ...] = ()
    why_not_ready: str = ""


class PageSource(Protocol):
    """See the module. Every method blocks and may be called from any thread; none checks the rights of a visitor.

    Attributes:
        is_live: whether saves may be under way, so that pages follow it by `/events`.
    """

    is_live: bool

    @property
    def objects(self) -> Objects:
        """Where the objects of its checkpoints are read."""

    def key(self, run: str, label: str) -> str:
        """Return what the keys of a checkpoint's files begin with in `objects`; `label` is its name in the run."""

    def about(self, *, sees_all: bool) -> About:
        """Describe it, from memory; to one that `sees_all` with what concerns the daemon as a whole."""

    def names(self) -> Sequence[str]:
        """Return the names of all runs, sorted; what was last found, if looking again takes long."""

    def runs(self) -> Sequence[RunView]:
        """Describe the runs that are open, by name. From memory: it is called several times a second."""

    def run(self, name: str) -> RunView:
        """Describe one run, if it has to be with the store's help.

        Raises:
            NotFoundError: there is none of this name.
            CkptdError: why it cannot be opened.
        """
