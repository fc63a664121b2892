"""`ckptd serve` as the demo starts it, forked from a process that has it imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ckptd.demo import processes
from tests.starts import prepared


class Daemon(processes.Daemon):
    """The demo's daemon, that starts in a tenth of the time."""

    def __init__(self, root: Path | str, log: Path, ready_file: Path, options: Sequence[str] = ()) -> None:
        super().__init__(root, log, ready_file, options, popen=prepared.Popen)
