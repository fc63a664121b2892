"""What a store can do is asked of itself: which are files of this host, and what a wrapper wraps."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckptd.engine.saves.scrub import LimitedObjects
from ckptd.errors import InvalidRequestError
from ckptd.storage.base import Objects
from ckptd.storage.capabilities import DiskStore, FileStore, beneath, local_path, read_by_many
from ckptd.storage.limited import RateLimit
from ckptd.storage.locations import open_store


class Copies:
    """Objects that are read from a copy; `beneath` is what was copied."""

    def __init__(self, originals: Objects) -> None:
        self.beneath = originals
        self.access, self.get, self.read_into = originals.access, originals.get, originals.read_into
        self.stat, self.location = originals.stat, originals.location


def test_a_directory_is_made_of_files_and_memory_and_buckets_are_not(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    assert local_path(store) == str(tmp_path)
    assert local_path(store, "a/b") == store.location("a/b") == str(tmp_path / "a/b")
    with pytest.raises(InvalidRequestError):
        local_path(store, "../b")
    assert isinstance(store, FileStore)
    assert isinstance(store, DiskStore)
    for other in (open_store("memory://capabilities"), open_store("s3://bucket/path")):
        assert local_path(other) is local_path(other, "a/b") is None
        assert not isinstance(other, FileStore)
        assert not isinstance(other, DiskStore)
        assert read_by_many(other) is other


def test_what_copies_were_made_of_is_found_beneath_all_of_them(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    assert beneath(store) is store
    assert beneath(Copies(Copies(store))) is store
    assert local_path(Copies(store), "a") is None


def test_objects_read_by_many_are_the_same_objects(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.put("a", b"1")
    assert read_by_many(store).get("a") == b"1"
    slow = LimitedObjects(store, RateLimit(1 << 30))
    assert read_by_many(slow) is slow
