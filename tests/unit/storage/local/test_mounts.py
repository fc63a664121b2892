from __future__ import annotations

import pytest

from ckptd.storage.local.mounts import mount_of

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
    mount = mount_of(path, TABLE)
    assert mount.kind == kind
    assert mount.is_network is remote


@pytest.mark.parametrize(
    ("kinds", "is_network"),
    [
        (
            "nfs nfs3 nfs4 cifs smb3 smbfs 9p virtiofs vboxsf vmhgfs prl_fs ceph glusterfs lustre gpfs beegfs",
            True,
        ),
        ("afs coda ncpfs ocfs2 gfs2 orangefs pvfs2 wekafs fuse fuse.sshfs fuse.s3fs fuse.juicefs fuse.lxcfs", True),
        ("ext4 xfs btrfs zfs f2fs tmpfs ramfs overlay aufs fuse.fuse-overlayfs fuseblk bcachefs nfsd", False),
    ],
)
def test_one_table_says_for_watchers_and_for_doctor_which_file_systems_other_hosts_change(kinds, is_network):
    for kind in kinds.split():
        assert mount_of("/x", f"1 0 8:1 / / rw - {kind} source rw").is_network is is_network, kind


def test_what_the_kernel_does_not_tell_is_not_known():
    assert mount_of("/x", "") is None


def test_the_real_table_knows_the_root_and_a_path_that_is_not_there_yet(tmp_path):
    assert mount_of("/") is not None
    assert mount_of(str(tmp_path / "not/there")) == mount_of(str(tmp_path))
