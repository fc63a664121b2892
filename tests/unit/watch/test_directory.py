"""The kernel's own events. Regular looks are an hour apart, so that nothing here is found by them."""

from __future__ import annotations

import errno
import shutil
import threading
import time

import pytest
from watchdog.observers.api import BaseObserver

from ckptd.errors import InvalidRequestError
from ckptd.storage.local.mounts import Mount
from ckptd.storage.locations import open_store
from ckptd.watch import hints
from ckptd.watch.directory import DirectoryHints
from ckptd.watch.follower import Follower
from ckptd.watch.polling import PollingHints
from tests import seams
from tests.fakes.directory import publish, put

BOUND_S = 60.0


@pytest.fixture
def follow(tmp_path):
    opened = []

    def begin(run="run"):
        listening = DirectoryHints(str(tmp_path / run), regular_look_s=3600.0)
        opened.append(Follower(open_store(str(tmp_path)), run, hints=listening))
        opened[-1].next(0)
        return opened[-1]

    yield begin
    for follower in opened:
        follower.close()


def later(action):
    """Carry `action` out in another thread, as another process would."""
    thread = threading.Thread(target=action)
    thread.start()
    return thread


def test_each_publication_is_heard_at_once(follow, tmp_path):
    (tmp_path / "run").mkdir()
    follower = follow()
    for step in range(1, 6):
        thread = later(lambda step=step: publish(tmp_path / "run", step))
        assert follower.next(BOUND_S).step == step
        thread.join()


def test_a_rename_is_not_held_back_to_be_paired(follow, tmp_path):
    """watchdog keeps the first half of each rename for half a second: not one would be told of sooner."""
    (tmp_path / "run").mkdir()
    follower = follow()
    took = []
    for step in range(1, 8):
        publish(tmp_path / "run", step)
        began = time.monotonic()
        assert follower.next(BOUND_S).step == step
        took.append(time.monotonic() - began)
        put(tmp_path / "run" / "other", b"")
        (tmp_path / "run" / "other").rename(tmp_path / "moved-away")
    assert min(took) < 0.4


def test_a_directory_that_is_not_there_yet_is_heard_of_part_by_part(follow, tmp_path):
    follower = follow("a/b/c")
    thread = later(lambda: publish(tmp_path / "a" / "b" / "c", 1))
    assert follower.next(BOUND_S).step == 1
    thread.join()


def test_a_directory_that_is_deleted_and_made_again_is_heard_of(follow, tmp_path):
    run = tmp_path / "run"
    publish(run, 5)
    follower = follow()
    for step in range(6, 12):
        shutil.rmtree(run)
        thread = later(lambda step=step: publish(run, step))
        assert follower.next(BOUND_S).step == step
        thread.join()


def test_a_directory_that_is_reached_by_a_link_is_listened_to(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    listening = DirectoryHints(str(tmp_path / "link"), regular_look_s=3600.0)
    follower = Follower(open_store(str(tmp_path / "link"), confined=False), hints=listening)
    follower.next(0)
    thread = later(lambda: publish(tmp_path / "real", 1))
    assert follower.next(BOUND_S).step == 1
    thread.join()
    follower.close()


def test_files_under_way_wake_nobody(tmp_path):
    listening = DirectoryHints(str(tmp_path), regular_look_s=3600.0)
    listening.arm()
    (tmp_path / ".m-1.index.x.ckptd-tmp").write_bytes(b"x")
    (tmp_path / "one").mkdir()  # one event, and not several as for a file
    listening.wait(BOUND_S)  # they come in order: by now those of the file were there, too
    assert listening.is_due
    listening.arm()
    (tmp_path / ".m-1.index.y.ckptd-tmp").write_bytes(b"x")
    listening.wait(0.05)
    assert not listening.is_due
    listening.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EMFILE])
def test_without_room_for_events_the_directory_is_looked_at_often(tmp_path, monkeypatch, code):
    def schedule(*_, **__):
        raise OSError(code, "inotify limit reached")

    monkeypatch.setattr(BaseObserver, "schedule", schedule)
    seams.WATCH_POLL_S.put(monkeypatch, 0.01)
    follower = Follower(
        open_store(str(tmp_path)), "run", hints=DirectoryHints(str(tmp_path / "run"), regular_look_s=3600.0)
    )
    assert follower.next(0) is None
    thread = later(lambda: publish(tmp_path / "run", 1))
    assert follower.next(BOUND_S).step == 1
    thread.join()
    follower.close()


def test_a_regular_look_finds_what_no_event_told(tmp_path, monkeypatch):
    monkeypatch.setattr(BaseObserver, "schedule", lambda *_, **__: None)
    follower = Follower(
        open_store(str(tmp_path)), "run", hints=DirectoryHints(str(tmp_path / "run"), regular_look_s=0.02)
    )
    assert follower.next(0) is None
    publish(tmp_path / "run", 1)
    assert follower.next(BOUND_S).step == 1
    follower.close()


def test_network_file_systems_memory_and_whoever_asks_get_regular_looks(tmp_path, monkeypatch):
    here = open_store(str(tmp_path))
    assert isinstance(hints.hints_for(here, "run"), DirectoryHints)
    assert isinstance(hints.hints_for(here, "", 2.0), PollingHints)
    assert isinstance(hints.hints_for(open_store("memory://hints"), "run"), PollingHints)
    over_nfs = Mount(str(tmp_path / "run"), "nfs4", frozenset())
    seams.WATCHED_MOUNT.put(monkeypatch, lambda path: over_nfs if path == over_nfs.point else None)
    assert isinstance(hints.hints_for(here, "run"), PollingHints)
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InvalidRequestError):
            PollingHints(wrong)
