"""Roots inside one another: whoever comes second is refused, so that no run has two owners."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from ckptd.engine.saves.coordinator import Coordinator
from ckptd.errors import ConflictError
from ckptd.storage.local.local_store import LocalStore
from ckptd.storage.lock_holder import LockHolder
from tests.fakes.job import Rank, save_all


@pytest.fixture
def opened(tmp_path):
    """Opens engines over directories below `tmp_path`, as a daemon or as direct mode."""
    with ExitStack() as stack:

        def open_(directory="", *, is_daemon=True):
            name = "ckptd serve" if is_daemon else "direct mode"
            holder = LockHolder.here(name, "unix:///a/socket" if is_daemon else "").line
            coordinator = Coordinator(LocalStore(tmp_path / directory), owns_root=is_daemon, holder=holder)
            coordinator.open()
            stack.callback(coordinator.close)
            return coordinator

        yield open_


def join(coordinator, run):
    return Rank(coordinator, 0, 1, run=run).join()


@pytest.mark.parametrize("is_daemon", [True, False])
def test_below_the_root_of_a_daemon_nobody_takes_another(opened, tmp_path, is_daemon):
    outer = opened()
    save_all([join(outer, "vision/mnist")], 1)
    with pytest.raises(ConflictError, match=f"is inside {tmp_path}, which is in use: a directory has one daemon") as no:
        opened("vision", is_daemon=is_daemon)
    assert LockHolder.parse(no.value.actual).address == "unix:///a/socket"
    assert [each.name for each in (tmp_path / "vision").iterdir()] == ["mnist"], "nothing is left behind"
    outer.close()
    assert join(opened("vision", is_daemon=is_daemon), "mnist").epoch == 2


@pytest.mark.parametrize("is_daemon", [True, False])
def test_runs_of_a_daemon_below_the_root_are_not_opened(opened, is_daemon):
    inner = opened("vision")
    save_all([join(inner, "mnist")], 1)
    outer = opened(is_daemon=is_daemon)
    with pytest.raises(ConflictError, match=r"vision is the root of another daemon.*ckptd serve, pid \d+"):
        join(outer, "vision/mnist")
    assert join(outer, "speech/digits").epoch == 1, "the others are its own"


def test_a_run_that_direct_mode_has_from_another_root_is_not_opened(opened):
    trainer = join(opened("vision", is_daemon=False), "mnist")
    daemon = opened()
    with pytest.raises(ConflictError, match=r"direct mode, pid \d+"):
        join(daemon, "vision/mnist")
    save_all([trainer], 1)


def test_a_daemon_beside_others_leaves_its_address_in_no_lock_but_its_own(opened, tmp_path):
    opened().close()
    opened("vision")
    with pytest.raises(ConflictError) as held:
        LocalStore(tmp_path).lock(".ckptd/lock", holder="a third")
    assert not LockHolder.parse(held.value.actual).is_daemon, "commands would send it what is not its own"
