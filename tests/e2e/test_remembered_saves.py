"""The daemon remembers saves that are over, so that a lost answer can be asked for again; not what they held."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

import ckptd

META_BYTES = 3 << 20
WARM = 12  # by then its threads have what they keep for the next allocation
SAVES = 48


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_a_daemon_does_not_grow_by_the_graphs_of_saves_that_are_over(daemon):
    with ckptd.Checkpointer(daemon.address, "r", rank=0, world_size=1, max_to_keep=2) as ckpt:
        for step in range(WARM):
            ckpt.save(step, {"w": np.ones(3)}, meta_graph=os.urandom(META_BYTES)).result(60)
        before = resident_bytes(daemon.process.pid)
        for step in range(WARM, WARM + SAVES):
            ckpt.save(step, {"w": np.ones(3)}, meta_graph=os.urandom(META_BYTES)).result(60)
        grown = resident_bytes(daemon.process.pid) - before
    assert grown < SAVES * META_BYTES // 3, f"grown by {grown >> 20} MiB"
