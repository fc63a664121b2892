"""How much memory this process may use: of the machine, or of the container that it runs in."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def usable_bytes(cgroups: Path = _CGROUPS) -> int:
    """Return the machine's memory, or the smallest limit that a container sets for us."""
    limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # versions 2 and 1, as seen inside of a container
        try:
            text = (cgroups / name).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            limit = min(limit, int(text))
    return limit
