"""Free memory for what a command reads whole: a file of a few bytes can claim, or be, terabytes (a sparse one)."""

from __future__ import annotations

from pathlib import Path

from ckptd.errors import InvalidRequestError, readable_size

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def check_fits(name: str, size_bytes: int, instead: str, meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> None:
    """Refuse to read a tensor that does not fit into the memory that is free, instead of being killed half-way.

    Raises:
        InvalidRequestError: with `instead`, what the user can do.
    """
    free = free_bytes(meminfo, cgroup)
    if free is not None and size_bytes > free:
        raise InvalidRequestError(
            f"tensor {name!r} does not fit into memory, of which {readable_size(free)} are free; {instead}",
            actual=readable_size(size_bytes),
        )


def free_bytes(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int | None:
    """Return how much memory can be had now, in our container too; None where the system does not say."""
    found = []
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        found.append(int(lines["MemAvailable"].split()[0]) << 10)
    except (OSError, KeyError, ValueError, IndexError):
        pass
    try:
        limit = int((cgroup / "memory.max").read_text())  # "max" where there is none
        found.append(max(0, limit - int((cgroup / "memory.current").read_text())))
    except (OSError, ValueError):
        pass
    return min(found, default=None)
