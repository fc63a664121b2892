"""Which file system a directory is on, according to the kernel's ``/proc/self/mountinfo``.

Source of the layout: Linux ``Documentation/filesystems/proc.rst``, section 3.5.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ckptd.storage.base import Durability

_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs", "hugetlbfs"})
_OVERLAY = frozenset({"overlay", "aufs", "fuse.fuse-overlayfs"})
# File systems that other hosts, or the host of a virtual machine, change without the kernel here noticing. FUSE may be
# anything; most of it that holds checkpoints is a bucket or another host.
_NETWORK = re.compile(
    r"nfs\d*|cifs|smb\w*|9p|virtiofs|vboxsf|prl_fs|vmhgfs|ceph|glusterfs|lustre|gpfs|beegfs\w*|afs|coda|ncpfs|ocfs2|"
    r"gfs2|orangefs|pvfs2|wekafs|fuse(\..+)?"
)
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One mounted file system: where, of which kind, with which options (the mount's and the file system's own)."""

    point: str
    kind: str
    options: frozenset[str]

    @property
    def is_read_only(self) -> bool:
        """Whether nothing can be written there."""
        return "ro" in self.options

    @property
    def is_overlay(self) -> bool:
        """Whether this is a container's layer over an image."""
        return self.kind in _OVERLAY

    @property
    def is_network(self) -> bool:
        """Whether another host, or a service, keeps the bytes, and may change them without the kernel here noticing."""
        return not self.is_overlay and _NETWORK.fullmatch(self.kind) is not None

    @property
    def durability(self) -> Durability:
        """What a synced file survives here, as far as the kind of file system is known."""
        return Durability.MEMORY if self.kind in _MEMORY else Durability.LOCAL_DISK


def mount_of(path: str, mountinfo: str | None = None) -> Mount | None:
    """Return the file system that `path` is on, None where the kernel does not tell.

    `mountinfo` is the kernel's table; it is read if it is not passed.
    """
    if mountinfo is None:
        try:
            mountinfo = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
        except OSError:
            return None
    real = os.path.realpath(path)
    best: Mount | None = None
    for line in mountinfo.splitlines():
        mount = _parse(line)
        if mount is None or not _is_below(real, mount.point):
            continue
        if best is None or len(mount.point) >= len(best.point):  # of two at one point the later covers the earlier
            best = mount
    return best


def _parse(line: str) -> Mount | None:
    before, dash, after = line.partition(" - ")
    fields, rest = before.split(" "), after.split(" ")
    if not dash or len(fields) < 6 or len(rest) < 3:
        return None
    options = frozenset(fields[5].split(",")) | frozenset(option for option in rest[2].split(",") if option != "rw")
    return Mount(_OCTAL.sub(lambda found: chr(int(found[1], 8)), fields[4]), rest[0], options)


def _is_below(path: str, point: str) -> bool:
    return point == "/" or path == point or path.startswith(point.rstrip("/") + "/")
