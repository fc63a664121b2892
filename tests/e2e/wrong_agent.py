"""An agent that gives other agents wrong bytes of its host's memory, or is gone as soon as it is asked.

Started as ``python -m tests.e2e.wrong_agent`` with the arguments of ``ckptd``; `WRONG_VARIABLE` says how it is wrong.
"""

from __future__ import annotations

import os
import signal

import pytest

from ckptd.arena.lender import Lender
from ckptd.cli.main import main
from tests import seams

WRONG_VARIABLE = "CKPTD_TEST_WRONG_AGENT"
LIES, DIES = "lies", "dies"

honest = Lender.read_held


def read_held(
    self: Lender, run: str, save_id: str, shard_key: str, offset: int, into: memoryview
) -> list[tuple[int, int]]:
    """Do as the original, and then change the first byte, or never return."""
    if os.environ[WRONG_VARIABLE] == DIES:
        os.kill(os.getpid(), signal.SIGKILL)
    gaps = honest(self, run, save_id, shard_key, offset, into)
    into[0] ^= 1
    return gaps


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        seams.READ_HELD.put(patch, read_held)
        main()
