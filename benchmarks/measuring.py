"""What the benchmarks share: sizes as people write them, what the kernel counts of a process, tables."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "B": 1}
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def parse_size(text: str) -> int:
    for unit, factor in UNITS.items():
        if text.endswith(unit):
            return int(float(text[: -len(unit)]) * factor)
    return int(text)


def memory_of(pid: int | str = "self") -> dict[str, int]:
    """Return VmRSS and VmHWM in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines if line.startswith(("VmRSS", "VmHWM"))}


def shared_memory_of(pid: int | str = "self") -> int:
    """Return what is resident of memory that processes may share (memfd, /dev/shm), in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssShmem"):
            return int(line.split()[1]) << 10
    return 0


def forget_peak(pid: int | str = "self") -> None:
    """Let VmHWM begin anew, at what is resident now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def cpu_of(pid: int | str = "self") -> float:
    """Return the processor seconds of all threads so far, its own and the kernel's for it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def family_of(pid: int) -> list[int]:
    """Return a process and its children."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [pid, *(int(child) for task in tasks for child in (task / "children").read_text().split())]


def last_cache_bytes() -> int:
    """Return the size of the last cache before memory; 32 MiB where the kernel does not tell."""
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(size[:-1]) << {"K": 10, "M": 20}[size[-1]] for size in sizes), default=32 << 20)


def forget_cached(directory: Path) -> None:
    """Ask the kernel to drop the files' pages, so that a restore comes from the disk. They have to be synced."""
    for path in directory.rglob("*"):
        try:
            fd = os.open(path, os.O_RDONLY)
        except OSError:
            continue  # retention is at work beside us
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError:
            continue  # a directory
        finally:
            os.close(fd)


def medians(rounds: Iterable[dict[str, float]]) -> dict[str, float]:
    """Return the median of each measure over the rounds that have it."""
    rounds = list(rounds)
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; all columns but the first hold numbers."""
    lines = [heads, ["---", *["--:"] * (len(heads) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
