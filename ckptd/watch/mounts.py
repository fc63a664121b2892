"""Where a directory lies: on this host, or on another one, whose changes the kernel here does not hear of.

The kernel's own table is read. `statfs` would give a magic number instead of a name, and Python has no call for it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

_TABLE = Path("/proc/self/mountinfo")
# File systems that other hosts (or the host of a virtual machine) change behind the kernel's back. FUSE may be
# anything; most of it that holds checkpoints is a bucket or another host.
_REMOTE = re.compile(
    r"nfs\d*|cifs|smb\w*|9p|virtiofs|vboxsf|prl_fs|vmhgfs|ceph|lustre|gpfs|beegfs\w*|afs|coda|ncpfs|ocfs2|gfs2|orangefs|"
    r"pvfs2|wekafs|fuse(\..+)?"
)
_ESCAPE = re.compile(r"\\([0-7]{3})")


def is_remote(path: str, table: str | None = None) -> bool:
    """Say whether others change `path` unheard. It need not be there yet. What can't be found out counts as local."""
    return _REMOTE.fullmatch(file_system_of(path, table)) is not None


def file_system_of(path: str, table: str | None = None) -> str:
    """Return the kernel's name for the file system that `path` is or will be on, "" when it can't be found out.

    `table`: the text of a mountinfo file; by default this process's.
    """
    if table is None:
        try:
            table = _TABLE.read_text(errors="surrogateescape")
        except OSError:
            return ""
    path = os.path.realpath(path)
    best, kind = "", ""
    for line in table.splitlines():
        # 36 35 98:0 /root /mount/point rw,noatime master:1 - ext4 /dev/root rw: the point is the fifth field
        fields, _, rest = line.partition(" - ")
        columns = fields.split(" ")
        if len(columns) < 5 or not rest:
            continue
        point = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), columns[4])
        # Of mounts at one point the last covers the others.
        if f"{path}/".startswith(point.rstrip("/") + "/") and len(point) >= len(best):
            best, kind = point, rest.split(" ")[0]
    return kind
