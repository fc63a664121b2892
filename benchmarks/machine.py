"""What to say about the machine beside figures that were measured on it."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from ckptd.storage.local.mounts import mount_of

_TELLING = (
    "ckptd",
    "numpy",
    "grpcio",
    "tensorflow-cpu",
    "tensorflow",
    "torch",
    "jax",
    "orbax-checkpoint",
    "safetensors",
)


def describe(directory: Path) -> dict[str, object]:
    mount = mount_of(str(directory))
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "file_system": None if mount is None else mount.kind,
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
        "versions": _versions(),
    }


def in_words(machine: dict[str, object]) -> str:
    memory = machine["memory_bytes"]
    assert isinstance(memory, int)
    kind = machine["file_system"] or "an unknown file system"
    return (
        f"{machine['processor']}, {machine['cores']} cores, {memory / 2**30:.0f} GiB, Linux {machine['kernel']}, "
        f"{kind}, Python {machine['python']}"
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for name in _TELLING:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
