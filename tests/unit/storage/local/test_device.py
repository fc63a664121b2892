"""The limit of a disk is measured with files of its own, which are gone afterwards."""

from __future__ import annotations

import errno
import os

import pytest

from ckptd.errors import NotFoundError, StorageFullError
from ckptd.storage.local import device


def test_a_disk_is_measured_and_nothing_stays(tmp_path):
    found = device.measure(tmp_path, (20 << 20) + 17, rounds=2)
    assert found.size_bytes == 20 << 20
    assert min(found.sync_s, found.write_s, found.read_s) > 0
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_that_refuses_direct_writes_is_measured_through_the_page_cache(tmp_path, monkeypatch):
    open_file = os.open

    def refuse(path, flags, *rest):
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no direct I/O here", str(path))
        return open_file(path, flags, *rest)

    monkeypatch.setattr(os, "open", refuse)
    found = device.measure(tmp_path, 1 << 20, rounds=1)
    assert not found.is_direct
    assert found.read_s > 0
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_our_error_and_nothing_stays(tmp_path, monkeypatch):
    def full(fd, data, at):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StorageFullError):
        device.measure(tmp_path, 1 << 20, rounds=1)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_there_is_said(tmp_path):
    with pytest.raises(NotFoundError):
        device.measure(tmp_path / "absent", 1 << 20, rounds=1)
