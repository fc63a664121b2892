"""Which run has the checkpoint of a path: a run of the daemon, or without a daemon the directory of that path."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from ckptd.client.checkpointer import Checkpointer
from ckptd.errors import InvalidRequestError
from ckptd.format.names import ANY_NAME, check_run_name
from ckptd.torch import lightning_paths as paths
from ckptd.torch.places import address_and_run

_NOT_IN_RUN_NAMES = re.compile(r"[^\w.+=@,-]")


class PathRuns:
    """Knows the runs that this process has saved to, and names new ones.

    Args:
        address: of a daemon; empty without one.
        above: with a daemon, the run below which each path has its own.
        options: of each `Checkpointer` that is made to look at a run.
    """

    def __init__(self, address: str, above: str, options: Mapping[str, Any]) -> None:
        self._address = address
        self._above = above
        self._options = options
        self._known: dict[str, str] = {}  # with a daemon, the runs that this process has saved to

    def __contains__(self, where: str) -> bool:
        return where in self._known

    def run_of(self, where: str, *, alone: bool = False) -> str:
        """Return the run of a path that has no pointer; with `alone` one that no other path has."""
        name = where.rpartition("/")[2]
        if not _can_name_a_run(name):  # a file that Lightning's launchers pass between processes begins with a dot
            name, alone = f"x{_NOT_IN_RUN_NAMES.sub('_', name)}", True
        own = f"@{hashlib.sha256(where.encode()).hexdigest()[:12]}" if alone else ""
        return f"{self._above}/{name}{own}"

    def run_to_save(self, where: str) -> str:
        """Return the daemon's run for a save to a path: the run that the path has already, or a new one.

        A run that belongs to another path is never returned: the save would replace that path's checkpoint.
        """
        run = paths.read_pointer(where) or self._known.get(where)
        if run is None:
            run = self.run_of(where)
            others = {taken for place, taken in self._known.items() if place != where}
            if run in others or not paths.is_local(where) or self.holds(run):
                run = self.run_of(where, alone=True)
        self._known[where] = run
        return run

    def holds(self, run: str) -> bool:
        """Return whether the daemon has a checkpoint in this run."""
        with Checkpointer(self._address, run, **self._options) as checkpointer:
            return bool(checkpointer.checkpoints(name=ANY_NAME))

    def place(self, where: str, *, is_bare: bool = False) -> tuple[str, str]:
        """Return address and run of a path; one that `is_bare`, a name without a directory, may mean a run itself.

        Raises:
            InvalidRequestError: the path points to a daemon's run, and there is no address of a daemon.
        """
        pointed = paths.read_pointer(where)
        if self._address:
            # Without a pointer the run of that name may be another path's.
            return self._address, pointed or self._known.get(where) or self.run_of(where, alone=not is_bare)
        if pointed:
            raise InvalidRequestError(
                f"this checkpoint is in the run {pointed!r} of a daemon, and no daemon's address is given: use "
                "CkptdCheckpointIO(address), or set CKPTD_ADDRESS in the environment",
                key=where,
            )
        if paths.is_local(where) and not _can_name_a_run(where.rpartition("/")[2]):
            return where, "checkpoint"
        return address_and_run(where, "")

    def forget(self, where: str) -> None:
        """Forget the run of a path whose checkpoint was removed."""
        self._known.pop(where, None)


def _can_name_a_run(name: str) -> bool:
    if _NOT_IN_RUN_NAMES.search(name):  # older versions replaced these characters, and their checkpoints are there
        return False
    try:
        check_run_name(name)
    except InvalidRequestError:
        return False
    return True
