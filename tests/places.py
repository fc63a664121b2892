"""Where tests write: to memory, except where the disk is what they are about.

A sync of a disk takes a millisecond or several, and the suite makes tens of thousands: half of the time of many tests.
What a file system in memory cannot show is tested on a disk all the same: in `tests/unit/storage` (its operations,
reads and writes around the page cache), `tests/e2e` and `tests/unit/cli` (the programs), `tmp_path` is `on_disk`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from multiprocessing.util import Finalize
from pathlib import Path

import pytest

_MEMORY = Path("/dev/shm")
_LEAST_FREE_BYTES = 6 << 30
_DISK_VARIABLE = "CKPTD_TESTS_DISK"


def use_memory(config: pytest.Config) -> None:
    """Put temporary files into memory until the end, unless ``TMPDIR`` or ``--basetemp`` says where they belong."""
    if hasattr(config, "workerinput") or "TMPDIR" in os.environ or config.option.basetemp or not _has_room():
        return
    os.environ[_DISK_VARIABLE] = tempfile.gettempdir()
    memory = tempfile.mkdtemp(prefix="ck", dir=_MEMORY)  # short: the path of a socket has little room
    os.environ["TMPDIR"] = memory
    tempfile.tempdir = None
    # After multiprocessing has removed its own directory in there, which is its last act.
    Finalize(None, shutil.rmtree, (memory, True), exitpriority=-200)


def _has_room() -> bool:
    """Whether there is memory for files, also for programs that go around the page cache, such as Ceph's."""
    try:
        with tempfile.NamedTemporaryFile(dir=_MEMORY) as file:
            os.close(os.open(file.name, os.O_RDWR | os.O_DIRECT))
        return shutil.disk_usage(_MEMORY).free >= _LEAST_FREE_BYTES
    except OSError:
        return False


@pytest.fixture(autouse=True)
def on_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of the test's own on a disk, where its other temporary files are, too.

    A directory of tests whose conftest has it under the name of `tmp_path` writes to the disk.
    """
    if disk := os.environ.get(_DISK_VARIABLE):
        monkeypatch.setenv("TMPDIR", disk)
        monkeypatch.setattr(tempfile, "tempdir", disk)
    directory = tempfile.mkdtemp(prefix="ckptd-test-")
    yield Path(directory).resolve()
    shutil.rmtree(directory, ignore_errors=True)
