"""What runs on a host: ``python -m tests.faults.hosts.program HOLDER TRAPS rank|ckptd ARGUMENT…``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ckptd.cli.main import main as ckptd_main
from tests import seams
from tests.e2e import saving_worker
from tests.faults.hosts import mutants
from tests.faults.hosts.network import enter
from tests.faults.hosts.traps import Traps


def main(holder: str, traps: str, program: str, *arguments: str) -> None:
    """Move to the host, make the traps, and become the program."""
    enter(int(holder))
    patch = pytest.MonkeyPatch()
    Traps(Path(traps)).set_up(patch)
    for rule in os.environ.get(mutants.VARIABLE, "").split():
        mutants.take_out(patch, rule)
    if program == "rank":
        address, run, *numbers = arguments
        saving_worker.main(address, run, *map(int, numbers))
        return
    # The network of the test is as closed as one host.
    seams.IS_LOOPBACK.put(patch, property(lambda address: True))
    sys.argv = [program, *arguments]
    ckptd_main()


if __name__ == "__main__":
    main(*sys.argv[1:])
