from __future__ import annotations

import ctypes
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ckptd.engine.priority import IO_CLASSES, Priority
from ckptd.errors import InvalidRequestError, UnavailableError
from tests import seams

IOPRIO_GET = {"x86_64": 252, "aarch64": 31, "riscv64": 31, "loongarch64": 31, "ppc64le": 274, "s390x": 283}


def in_a_pool_with(wanted: Priority) -> tuple[int, int]:
    """Return nice value and io priority of a thread that began so."""

    def look() -> tuple[int, int]:
        number = IOPRIO_GET[os.uname().machine]
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id()), ctypes.CDLL(None).syscall(number, 1, 0)

    with ThreadPoolExecutor(1, initializer=wanted.apply) as pool:
        return pool.submit(look).result()


@pytest.mark.parametrize(("io_class", "expected"), list(zip(IO_CLASSES, [2 << 13 | 7, 3 << 13], strict=True)))
def test_a_pools_threads_get_the_priority_and_nobody_else(io_class: str, expected: int) -> None:
    mine = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    wanted = min(19, mine + 5)
    assert in_a_pool_with(Priority(wanted, io_class)) == (wanted, expected)
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == mine


def test_nothing_asked_for_changes_nothing() -> None:
    plain = in_a_pool_with(Priority())
    assert plain[0] == os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_trying_a_priority_out_leaves_this_thread_as_it_is() -> None:
    mine = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    Priority(min(19, mine + 1), "idle").check()
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == mine


def test_what_this_system_cannot_do_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "vax")
    with pytest.raises(InvalidRequestError, match="not known on this processor"):
        Priority(io_class="idle").check()
    monkeypatch.undo()
    seams.IO_CLASS_AND_LEVEL.put(monkeypatch, {"idle": (7, 0)})  # the kernel has no such class
    with pytest.raises(UnavailableError, match="refuses"):
        Priority(io_class="idle").check()


@pytest.mark.parametrize(
    ("setting", "nice", "warns"), [("1\n", 5, True), ("0\n", 5, False), ("1\n", None, False), (None, 5, False)]
)
def test_it_tells_where_a_nice_value_counts_in_one_session_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str | None, nice: int | None, warns: bool
) -> None:
    if setting is not None:
        (tmp_path / "enabled").write_text(setting)
    seams.AUTOGROUP_FILE.put(monkeypatch, tmp_path / "enabled")
    assert bool(Priority(nice).caveat()) is warns
    if warns:
        assert f"/proc/{os.getpid()}/autogroup" in Priority(nice).caveat()
