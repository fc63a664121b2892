"""A file is opened although this process has no descriptor left for a moment."""

from __future__ import annotations

import errno
import os
import resource
import threading

import pytest

from ckptd.storage.local.patience import patient
from ckptd.storage.local.system_disk import SystemDisk


def test_a_file_is_opened_once_there_is_a_descriptor_again(tmp_path):
    disk, before = SystemDisk(), resource.getrlimit(resource.RLIMIT_NOFILE)
    back = threading.Timer(0.05, resource.setrlimit, (resource.RLIMIT_NOFILE, before))
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, before[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            os.dup(0)
        back.start()
        root = disk.open_root(str(tmp_path))
        back.join()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    disk.close(root)


def test_other_failures_are_told_at_once():
    tried = []

    def fail():
        tried.append(1)
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        patient(fail)()
    assert len(tried) == 1
