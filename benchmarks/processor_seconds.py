"""Processor seconds of the programs of a benchmark, by what they are: it tells whether links or processors bound it."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_KINDS = (
    ("host_network.py", "links"),
    ("host_worker.py", "ranks"),
    ("host_reader.py", "readers"),
    ("--role agent", "agents"),
    ("--role coordinator", "coordinator"),
    ("ckptd serve", "daemon"),
)


def spent_s() -> Counter[str]:
    """Return the processor seconds so far of what this process has started and still runs; the rest is `store`."""
    parents: dict[int, int] = {}
    found: dict[int, tuple[str, float]] = {}
    for each in Path("/proc").glob("[0-9]*"):
        try:
            command = (each / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            fields = (each / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        pid = int(each.name)
        parents[pid] = int(fields[1])
        found[pid] = command, (int(fields[11]) + int(fields[12])) * _TICK_S
    spent: Counter[str] = Counter()
    for pid, (command, seconds) in found.items():
        if _is_below(pid, os.getpid(), parents):
            spent[next((kind for part, kind in _KINDS if part in command), "store")] += seconds
    return spent


def _is_below(pid: int, top: int, parents: dict[int, int]) -> bool:
    while pid in parents and pid != top:
        pid = parents[pid]
        if pid == top:
            return True
    return False
