from __future__ import annotations

import pytest

from ckptd.watch.mounts import file_system_of, is_remote

TABLE = r"""
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 21 0:40 / /mnt/nfs rw,relatime shared:2 - nfs4 server:/export rw,vers=4.2
31 30 8:2 / /mnt/nfs/local rw - xfs /dev/sdb rw
32 21 0:41 / /mnt/with\040blank rw - fuse.sshfs host:/ rw
33 21 0:42 / /mnt/twice rw - cifs //host/share rw
34 33 8:3 / /mnt/twice rw - btrfs /dev/sdc rw
35 21 0:43 / /mnt/nfs2 rw - tmpfs tmpfs rw
a line that is none
"""


@pytest.mark.parametrize(
    ("path", "kind", "remote"),
    [
        ("/checkpoints", "ext4", False),
        ("/mnt/nfs", "nfs4", True),
        ("/mnt/nfs/runs/a", "nfs4", True),
        ("/mnt/nfs/local/runs", "xfs", False),
        ("/mnt/nfs2/runs", "tmpfs", False),
        ("/mnt/with blank/x", "fuse.sshfs", True),
        ("/mnt/twice/x", "btrfs", False),
    ],
)
def test_the_innermost_mount_decides_whether_others_change_files_unheard(path, kind, remote):
    assert file_system_of(path, TABLE) == kind
    assert is_remote(path, TABLE) is remote


def test_what_cannot_be_found_out_counts_as_local():
    assert file_system_of("/x", "") == ""
    assert not is_remote("/x", "")


def test_the_real_table_knows_the_root_and_a_path_that_is_not_there_yet(tmp_path):
    assert file_system_of("/")
    assert file_system_of(str(tmp_path / "not/there")) == file_system_of(str(tmp_path))
