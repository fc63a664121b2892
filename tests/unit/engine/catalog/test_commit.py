from __future__ import annotations

import pytest

from ckptd.engine.catalog.commit import Files, SeenState, commit, look, publish
from ckptd.errors import ConflictError, CorruptionError
from ckptd.storage.base import Buffer, ObjectStat
from ckptd.storage.memory import MemoryStore

FILES = Files("r/m-1.index", b"index", "r/m-1.meta", b"graph", overwrite=False)


def test_the_index_comes_after_the_graph_and_the_state_file_after_both() -> None:
    store, steps = MemoryStore(), []

    def on_step(step: str) -> None:
        steps.append((step, sorted(each.key for each in store.list(""))))

    commit(store, FILES, on_step)
    seen = publish(store, "r/checkpoint", b"state", SeenState(), on_step)
    assert steps == [
        ("commit.meta", []),
        ("commit.index", ["r/m-1.meta"]),
        ("publish.state", ["r/m-1.index", "r/m-1.meta"]),
        ("publish.read_back", ["r/checkpoint", "r/m-1.index", "r/m-1.meta"]),
    ]
    assert seen == look(store, "r/checkpoint")


def test_a_commit_never_replaces_unless_it_is_told_to() -> None:
    store = MemoryStore()
    commit(store, FILES)
    with pytest.raises(ConflictError):
        commit(store, Files("r/m-1.index", b"other", "r/m-1.meta", None, overwrite=False))
    assert store.get("r/m-1.index") == b"index"
    commit(store, Files("r/m-1.index", b"other", "r/m-1.meta", b"other", overwrite=True))
    assert (store.get("r/m-1.index"), store.get("r/m-1.meta")) == (b"other", b"other")


def test_a_state_file_that_someone_else_changed_is_not_replaced() -> None:
    store = MemoryStore()
    seen = publish(store, "checkpoint", b"one", SeenState())
    store.replace("checkpoint", b"someone else's")
    with pytest.raises(ConflictError):
        publish(store, "checkpoint", b"two", seen)
    assert store.get("checkpoint") == b"someone else's"


def test_a_state_file_that_appeared_meanwhile_is_not_replaced() -> None:
    store = MemoryStore()
    store.put("checkpoint", b"someone else's")
    with pytest.raises(ConflictError):
        publish(store, "checkpoint", b"one", SeenState())


def test_a_state_file_that_was_touched_still_says_the_same() -> None:
    store = MemoryStore()
    seen = publish(store, "checkpoint", b"one", SeenState())
    store.replace("checkpoint", b"one")
    publish(store, "checkpoint", b"two", seen)
    assert store.get("checkpoint") == b"two"


def test_a_store_that_lies_about_the_state_file_is_found_out_before_the_acknowledgement() -> None:
    class Lying(MemoryStore):
        def replace(self, key: str, data: Buffer, *, if_version: str | None = None) -> ObjectStat:
            return self.stat(key)

    store = Lying()
    seen = publish(store, "checkpoint", b"one", SeenState())
    with pytest.raises(CorruptionError) as caught:
        publish(store, "checkpoint", b"two", seen)
    assert caught.value.key == "checkpoint"
