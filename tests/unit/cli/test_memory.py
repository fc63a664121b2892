from __future__ import annotations

import pytest

from ckptd.cli import memory
from ckptd.errors import InvalidRequestError


@pytest.fixture
def host(tmp_path):
    """A host with 8 GiB free, and a container with 1 GiB of which half is used."""
    (tmp_path / "meminfo").write_text("MemTotal: 16777216 kB\nMemAvailable:    8388608 kB\nHugePages_Total: 0\n")
    (tmp_path / "memory.max").write_text("1073741824\n")
    (tmp_path / "memory.current").write_text("536870912\n")
    return tmp_path


def test_what_is_free_is_the_least_of_machine_and_container(host):
    assert memory.free_bytes(host / "meminfo", host) == 1 << 29
    (host / "memory.max").write_text("max\n")
    assert memory.free_bytes(host / "meminfo", host) == 8 << 30
    (host / "meminfo").write_text("")
    assert memory.free_bytes(host / "meminfo", host) is None


def test_what_does_not_fit_is_refused_with_what_to_do(host):
    memory.check_fits("w", 1 << 29, "-", host / "meminfo", host)
    with pytest.raises(
        InvalidRequestError, match="'w' does not fit into memory, of which 536.9 MB are free; read less"
    ):
        memory.check_fits("w", (1 << 29) + 1, "read less", host / "meminfo", host)
    (host / "memory.max").unlink()
    (host / "meminfo").unlink()
    memory.check_fits("w", 1 << 60, "-", host / "meminfo", host)
